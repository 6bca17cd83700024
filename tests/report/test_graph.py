"""Why is this here, and what does it weigh: chains from requirements, and sizes in which what is shared counts once."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.report.graph import LEFT, PIP_PIECE, REQUESTED, make_graph
from cogvideo_sat_env.report.size import measure
from cogvideo_sat_env.report.why import find_why
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec
from inventories import of, package, project, variant

PROJECT = Path(__file__).parents[2]
SPEC = Environment(
    Path("environment.yml"), "x", ("conda-forge",),
    (CondaSpec("a", ">=1", line=3, comment="first"), CondaSpec("b", line=4), CondaSpec("absent")),
    (PipSpec("Piece", "<2", line=6, comment="from pip"),), {},
)  # fmt: skip


@pytest.fixture
def graph():
    """a -> shared -> deep; b -> shared, b -> own; piece (pip) -> pytorch by its PyPI name; a circle that none needs."""
    return make_graph(
        of(
            package("a", needs=["shared >=1", "__glibc >=2.17"], size=10),
            package("b", needs=["shared", "own 1.*"], size=20),
            package("shared", needs=["deep"], size=300),
            package("deep", needs=["shared", "deep"], size=None),  # a circle, and itself
            package("own", size=7),
            package("piece", kind="pip", needs=["torch >=2", "gone"], size=5),
            package("pytorch", size=4000),
            package("lone", needs=["circle"], size=1),
            package("circle", needs=["lone"], size=1),
        ),
        SPEC,
    )


def test_a_chain_leads_from_each_requirement_the_shortest_first(graph) -> None:
    chains = [(root.spec, list(steps)) for root, steps in graph.chains("deep")]
    assert chains == [("a >=1", ["a", "shared", "deep"]), ("b", ["b", "shared", "deep"])]
    ((root, steps),) = graph.chains("pytorch")
    assert (root.kind, root.where, steps) == (PIP_PIECE, "environment.yml:6", ("piece", "pytorch"))
    assert graph.needs["piece"]["pytorch"] == "torch >=2"


def test_roots_are_the_requirements_in_their_order_and_then_what_they_do_not_lead_to(graph) -> None:
    assert [(root.key, root.kind) for root in graph.roots] == [
        ("a", REQUESTED), ("b", REQUESTED), ("piece", PIP_PIECE), ("circle", LEFT),
    ]  # fmt: skip
    assert set(graph.owner) == set(graph.packages)


def test_each_package_is_counted_once_and_an_unknown_size_is_said(graph) -> None:
    sizes = measure(graph)
    shares = {share.root.key: share for share in sizes.shares}
    assert sum(share.counted.size for share in sizes.shares) == sizes.total.size == 4344
    assert sum(share.counted.count for share in sizes.shares) == sizes.total.count == 9
    assert (shares["a"].counted.size, shares["a"].alone.size, shares["a"].in_all.size) == (310, 10, 310)
    assert (shares["b"].counted.size, shares["b"].alone.size, shares["b"].in_all.size) == (27, 27, 327)
    assert sizes.total.unknown == shares["a"].counted.unknown == 1
    text = sizes.to_text("requirement")
    assert "4.3 kB + 1 unknown" in text and "counted once" in text
    assert re.search(r"^unknown  deep ", sizes.to_text(), re.MULTILINE)
    assert next(p for p in sizes.to_json()["packages"] if p["name"] == "deep")["bytes"] is None


def test_a_foreign_lock_has_roots_of_its_own() -> None:
    graph = make_graph(of(package("top", needs=["below"]), package("below")))
    assert [(root.key, root.kind) for root in graph.roots] == [("top", LEFT)]


@pytest.mark.slow
def test_every_package_of_the_locks_has_a_reason() -> None:
    for inventory in project():
        graph = make_graph(inventory)
        assert not [root for root in graph.roots if root.kind == LEFT], inventory.label
        for key in graph.packages:
            assert graph.chains(key), key


def test_why_answers_by_either_name_and_tells_chains_reasons_and_the_ledger() -> None:
    locks = (variant("linux-64-cuda"),)
    text = find_why("libcublas", locks).to_text()
    assert "pytorch >=2.5.1,<2.11 cuda* → libcublas" in text and "467.7 MB" in text
    assert "linux-64-cuda" in text and str(PROJECT) not in text
    found = find_why("torch", locks).to_json()
    assert found["package"]["name"] == "pytorch" and found["package"]["reasons"] == ["requested", "required by"]
    assert {bound["id"] for bound in found["bounds"]} == {"torch-2.11", "torch-cuda-build"}
    assert find_why("webdataset", locks).presence.reasons == ["pip piece", "required by"]
    assert find_why("aom", locks).presence.reasons == ["required by"]
    variable = find_why("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", locks)
    assert variable.presence is None and variable.known
    other = find_why("decord2", project())
    assert other.presence.graph.inventory.variant == "linux-aarch64-cuda"


@pytest.mark.parametrize(("name", "near"), [("pyarow", "pyarrow"), ("cublas", "libcublas"), ("", "all names"),
                                            ("no-such-thing-at-all", "all names")])  # fmt: skip
def test_an_unknown_package_is_an_error_with_names_that_are_near(name: str, near: str) -> None:
    with pytest.raises(InputError, match="neither a requirement nor bounded") as caught:
        find_why(name, [variant("linux-64-cuda")])
    assert near in caught.value.remedy


def test_the_commands_answer_for_the_project_a_file_and_a_revision() -> None:
    run = CliRunner().invoke
    lock = str(PROJECT / "locks/conda-linux-64.lock")
    said = run(cli, ["size", "--by", "requirement", "--top", "2"]).output
    assert "counted once" in said and "requirements more (--all)" in said
    (found,) = json.loads(run(cli, ["size", lock, "--json"]).output)
    assert found["variant"] == "linux-64-cuda" and found["measure"] == "archives"
    assert sum(item["counted"]["bytes"] for item in found["requirements"]) == found["total"]["bytes"]
    assert "pytorch" in run(cli, ["why", "libtorch", "--of", lock]).output
    with pytest.raises(InputError, match="no lock for win-64"):
        run(cli, ["size", "--platform", "win-64"], catch_exceptions=False)
    with pytest.raises(InputError, match="has no variant 'linux-64-cpu'"):
        run(cli, ["size", lock, "--variant", "linux-64-cpu"], catch_exceptions=False)


def test_a_prefix_is_measured_by_its_files() -> None:
    one = replace(package("a"), installed_size=5)
    sizes = measure(make_graph(of(one, kind="prefix")))
    assert sizes.total.size == 5 and "on the disk" in sizes.to_text()
    assert variant("linux-64-cuda").find("python").installed_size is None

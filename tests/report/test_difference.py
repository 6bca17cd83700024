"""What differs between two locks, revisions or environments: each kind of change, sizes, licences, crossed bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.report.difference import compare, diff
from inventories import of, package

PROJECT = Path(__file__).parents[2]
TORCH = "cuda129_mkl_py311_h0_300"
BEFORE = of(
    package("same"),
    package("gone", size=500),
    package("up", "1.9", size=100),
    package("epoch", "2020.1"),
    package("down", "9e"),
    package("again", build="0"),
    package("other-bytes"),
    package("licence", "1.0", licence="MIT"),
    package("decord", "0.6.0", kind="pip"),
    package("msgpack", "1.2", kind="pip"),
    package("piece", "1.0rc1", kind="pip"),
    package("pytorch", "2.10.0", build=TORCH),
    package("unsized", size=None),
    variant="linux-64-cuda",
)
AFTER = of(
    package("same"),
    package("new", licence="GPL-3.0-only", size=2000),
    package("up", "1.10", size=150),
    package("epoch", "1!1.0"),
    package("down", "9d"),
    package("again", build="1"),
    replace(package("other-bytes"), sha256="f" * 64),
    package("licence", "1.1", licence="LGPL-2.1-only"),
    package("decord", "0.6.0"),
    package("msgpack-python", "1.1"),
    package("piece", "1.0", kind="pip"),
    package("pytorch", "2.14.1", build=TORCH),
    package("unsized", "1.1", size=None),
    variant="linux-64-cuda",
)


def test_every_kind_of_change_is_told() -> None:
    found = diff(BEFORE, AFTER)
    assert {change.name: change.kind for change in found.changes} == {
        "new": "added", "gone": "removed", "up": "upgraded", "epoch": "upgraded", "down": "downgraded",
        "again": "rebuilt", "other-bytes": "rebuilt", "licence": "upgraded", "decord": "moved",
        "msgpack-python": "moved", "piece": "upgraded", "pytorch": "upgraded", "unsized": "upgraded",
    }  # fmt: skip
    by_name = {change.name: change for change in found.changes}
    assert by_name["up"].size_delta == 50 and by_name["new"].size_delta == 2000 and by_name["gone"].size_delta == -500
    assert by_name["unsized"].size_delta is None
    assert by_name["licence"].licence_changed and by_name["licence"].new_flags == ("lgpl",)
    assert by_name["new"].new_flags == ("gpl",) and not by_name["up"].licence_changed
    assert by_name["msgpack-python"].words() == ("1.2 (pip)", "1.1 (conda-forge)")
    assert by_name["again"].words() == ("1.0 0", "1.0 1")
    assert "SHA-256" in by_name["other-bytes"].words()[1]


def test_an_added_and_a_removed_package_have_the_requirement_that_leads_to_them() -> None:
    own = package("kornia", needs=["below"])
    with_it, without = (of(*packages, variant="linux-64-cuda") for packages in ((own, package("below")), (own,)))
    (added,), (removed,) = diff(without, with_it).changes, diff(with_it, without).changes
    assert (added.kind, added.reason) == ("added", "kornia >=0.7.3") and removed.reason == "kornia >=0.7.3"
    assert "for kornia >=0.7.3" in diff(without, with_it).to_text()
    (itself,) = diff(of(variant="linux-64-cuda"), of(package("kornia"), variant="linux-64-cuda")).changes
    assert itself.reason == ""


def test_the_other_way_round_is_the_mirror_image() -> None:
    there, back = diff(BEFORE, AFTER), diff(AFTER, BEFORE)
    mirror = {"added": "removed", "removed": "added", "upgraded": "downgraded", "downgraded": "upgraded"}
    assert sorted(mirror.get(c.kind, c.kind) for c in there.changes) == sorted(c.kind for c in back.changes)
    assert next(c.kind for c in back.changes if c.name == "msgpack") == "moved"


def test_a_version_that_crosses_a_bound_of_the_ledger_is_told() -> None:
    (hit,) = diff(BEFORE, AFTER).hits
    assert (hit.package, hit.id, hit.bound, hit.inside) == ("pytorch", "torch-2.11", "<2.11", False)
    (back,) = diff(AFTER, BEFORE).hits
    assert back.inside
    cpu = of(package("pytorch", "2.10.0", build="cpu_py311_0"))
    assert [hit.id for hit in diff(of(package("pytorch", "2.10.0", build=TORCH)), cpu).hits] == ["torch-cuda-build"]
    floor = diff(of(), of(package("kornia", "0.7.2", kind="pip")))
    assert [(hit.id, hit.inside, hit.before) for hit in floor.hits] == [("floor", False, "nothing")]


def test_equal_inventories_have_no_difference() -> None:
    assert diff(BEFORE, BEFORE).equal and not diff(BEFORE, BEFORE).hits
    assert "no difference" in diff(BEFORE, BEFORE).to_text()
    unknown = of(replace(package("same"), sha256=""), package("x", kind="pip", sha256=""))
    assert diff(unknown, of(package("same"), package("x", kind="pip"))).equal


def test_text_and_markdown_say_what_needs_a_look_first() -> None:
    text = diff(BEFORE, AFTER).to_text()
    head, second, *_ = text.splitlines()
    assert "1 added, 1 removed, 2 moved, 6 upgraded, 1 downgraded, 2 rebuilt" in head and "at least" in head
    assert "leaves <2.11 (torch-2.11)" in second
    markdown = compare([BEFORE], [AFTER]).to_markdown()
    assert markdown.startswith("## some.yml → some.yml") and "### linux-64-cuda" in markdown
    assert "leaves &lt;2.11" in markdown and "| `up` | upgraded | 1.9 | 1.10 | +50 B |  |" in markdown
    assert markdown.index("Bounds that are crossed") < markdown.index("Licences to look at") < markdown.index("| `up`")
    many = compare([of()], [of(*(package(f"p{n}") for n in range(30)))]).to_markdown()
    assert "<details><summary>All 30 packages</summary>" in many


def test_platforms_are_paired_and_those_that_only_one_has_are_told() -> None:
    arm = of(package("same"), platform="linux-aarch64")
    mac = of(package("same"), platform="osx-arm64")
    found = compare([BEFORE, arm], [BEFORE, mac])
    assert [one.label for one in found.differences] == ["linux-64-cuda"]
    assert (found.gone, found.come, found.equal) == (("linux-aarch64",), ("osx-arm64",), False)
    assert compare([BEFORE, arm], [arm]).equal  # one side is for one platform alone
    with pytest.raises(InputError, match="nothing to compare"):
        compare([arm, mac], [BEFORE, of(platform="win-64")])
    cpu = replace(BEFORE, variant="linux-64-cpu")
    with pytest.raises(InputError, match="could be compared with linux-64-cuda, linux-64-cpu"):
        compare([of(package("same"))], [BEFORE, cpu])
    assert compare([BEFORE, cpu], [cpu, BEFORE]).equal


def test_of_an_explicit_lockfile_the_conda_part_alone_is_compared() -> None:
    explicit = of(*(p for p in BEFORE.packages if p.kind == "conda"), kind="explicit")
    found = diff(BEFORE, explicit)
    assert found.equal and "conda part only" in found.to_text()


def test_the_command_ends_with_0_for_equal_and_1_for_different(project: Path) -> None:
    run, lock = CliRunner().invoke, project / "locks/linux-64-cpu-conda-lock.yml"
    locks = str(PROJECT / "locks/linux-64-cpu-conda-lock.yml"), str(lock)
    assert run(cli, ["diff", *locks]).exit_code == 0
    text = lock.read_text()
    lock.write_text(
        text.replace("webdataset-0.2.86", "webdataset-0.2.90").replace("version: 0.2.86", "version: 0.2.90")
    )
    assert lock.read_text() != text
    told = run(cli, ["diff", *locks, "--platform", "linux-64"])
    assert told.exit_code == 1 and "0.2.86" in told.output and "leaves <0.2.88 (webdataset-0.2.88)" in told.output
    found = json.loads(run(cli, ["diff", *locks, "--json"]).output)
    assert not found["equal"] and len(found["platforms"]) == 1
    assert found["platforms"][0]["changes"][0]["after"]["version"] == "0.2.90"
    assert run(cli, ["diff", *locks, "--json", "--markdown"]).exit_code == 2

"""Reading the breakage ledger, the requirements and the variants: one error with file and line for each fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.requirements import read_requirements
from cogvideo_sat_env.spec.variants import choose_variant, derive, read_variants, render_environment

PROJECT = Path(__file__).parents[2]

ENTRY = """\
entries:
  - id: one
    package: numpy
    bound: ">=2"
    breaks: it
    error: the error
    evidence: {measured: yes it was}
    proof: {tests: [a::b]}
    remedy: type this
"""


def ledger(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "breakage.yml"
    path.write_text(text)
    return path


def test_an_entry_is_read_as_typed_values(tmp_path):
    (entry,) = read_ledger(ledger(tmp_path, ENTRY)).entries
    assert (entry.package, entry.bound, entry.evidence, entry.proof.tests) == (
        "numpy",
        ">=2",
        {"measured": "yes it was"},
        ("a::b",),
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    evidence: {measured: yes it was}\n", "", r":2: entry 'one' has no evidence"),
        ("    proof: {tests: [a::b]}\n", "    proof: {}\n", r":2: entry 'one' has no proof"),
        ("    error: the error\n", "", r":2: entry 'one' lacks 'error'"),
        ('    bound: ">=2"\n', "    bound: 2\n", r":2: entry 'one' lacks 'bound' \(a text\)"),
        ("proof: {tests: [a::b]}", "proof: {tests: a::b}", r":2: entry 'one': 'tests' must be a list of names"),
        ("    remedy: type this\n", "    remedy: type this\n    pypi: numpy\n", r":2: entry 'one': 'pypi' must have"),
        ("    remedy: type this\n", "    remedy: type this\npatches: 3\n", r":10: 'patches' must be a list of entries"),
        ("entries:\n", "bounds:\n", r":1: expected the breakage ledger: a list under 'entries'"),
        ("    remedy: type this\n", "    remedy: [type\n", r":10: "),
    ],
)
def test_a_broken_entry_is_named_with_its_line(tmp_path, old, new, expected):
    assert old in ENTRY
    path = ledger(tmp_path, ENTRY.replace(old, new))
    with pytest.raises(InputError, match=re.escape(str(path)) + expected):
        read_ledger(path)


def test_an_id_that_stands_twice_is_named(tmp_path):
    path = ledger(tmp_path, ENTRY + ENTRY.removeprefix("entries:\n"))
    with pytest.raises(InputError, match=r":10: id 'one' stands twice \(first on line 2\)"):
        read_ledger(path)


def test_a_requirement_with_an_unknown_key_is_named(tmp_path):
    path = tmp_path / "requirements.yml"
    path.write_text("requirements:\n  - {name: a, module: a, source: spec, role: r, flor: 1}\n")
    with pytest.raises(InputError, match=r"requirements\.yml:2: expected the keys"):
        read_requirements(path)


def test_a_floor_that_is_no_version_is_named(tmp_path):
    path = tmp_path / "requirements.yml"
    path.write_text("requirements:\n  - {name: a, module: a, source: spec, role: r, floor: two}\n")
    with pytest.raises(InputError, match=r"requirements\.yml:2: floor of a: Invalid version"):
        read_requirements(path)


def test_the_floors_of_the_specification_are_kept():
    floors = {r.name: r.floor for r in read_requirements() if r.source == "spec"}
    assert floors == {
        "SwissArmyTransformer": "0.4.12", "omegaconf": "2.3.0", "deepspeed": "0.15.3", "pytorch-lightning": "2.4.0",
        "decord": "0.6.0", "webdataset": None, "einops": None, "kornia": "0.7.3", "torchvision": "0.20.1",
        "wandb": "0.18.5", "safetensors": "0.4.5", "beartype": "0.19.0", "fsspec": "2024.2.0", "scipy": "1.14.1",
        "braceexpand": None, "imageio": "2.35.1",
    }  # fmt: skip


def test_a_variant_that_lacks_a_key_is_named(tmp_path):
    path = tmp_path / "variants.yml"
    path.write_text(re.sub(r"    suffix: linux-64-cpu\n", "", (DATA / "variants.yml").read_text()))
    with pytest.raises(InputError, match=r"variants\.yml:\d+: variant 'linux-64-cpu' lacks 'suffix'"):
        read_variants(path)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('__linux: "5.10"', "__linux: 5.10", "virtual_packages"),  # YAML reads 5.1
        ("virtual_packages: {__unix", "virtual_packages: [__unix]  # {__unix", "virtual_packages"),
        ('{build: "cpu*", reason: "the CPU build"}', '{build: "cpu*"}', "set"),
        ('{build: "cpu*", reason: "the CPU build"}', '{bulid: "cpu*", reason: "the CPU build"}', "set"),
        ("names: [kornia, wandb", "names: [3, wandb", "drop"),
        ('peft: {drop: "training only"}', "peft:", "pip"),
        ('{spec: "kornia >=0.7.3"', '{spec: "kornia >=0.7.3 [x]"', "pip"),
        ("drop: [TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD]", "drop: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "variables"),
    ],
)
def test_a_part_of_a_variant_that_is_something_else_is_named_with_its_line(tmp_path, old, new, key):
    text = (DATA / "variants.yml").read_text()
    assert old in text
    path = tmp_path / "variants.yml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(
        InputError, match=rf"variants\.yml:\d+: variant '[\w-]+': '{key}' is not as the head of the file"
    ):
        read_variants(path)


def test_a_variant_that_changes_what_is_not_there_is_named(tmp_path):
    path = tmp_path / "variants.yml"
    path.write_text((DATA / "variants.yml").read_text().replace("names: [kornia, wandb", "names: [korina, wandb"))
    variant = next(v for v in read_variants(path) if v.id == "linux-aarch64-cuda")
    with pytest.raises(InputError, match="variant linux-aarch64-cuda: 'korina' is not in"):
        derive(read_environment(PROJECT / "environment.yml"), variant, tmp_path / "x.yml")


@pytest.mark.parametrize("variant", read_variants(), ids=lambda variant: variant.id)
def test_a_generated_environment_file_says_what_it_was_generated_from(variant, tmp_path):
    derived = derive(read_environment(PROJECT / "environment.yml"), variant, tmp_path / "environment.yml")
    (tmp_path / "environment.yml").write_text(render_environment(derived, variant))
    again = read_environment(tmp_path / "environment.yml")
    assert [str(spec) for spec in again.conda] == [str(spec) for spec in derived.conda]
    assert [str(spec) for spec in again.pip] == [str(spec) for spec in derived.pip]
    assert (again.channels, again.variables) == (derived.channels, derived.variables)


def test_an_unknown_variant_is_told_what_there_is():
    with pytest.raises(
        InputError, match="there is no lock for win-64 with cuda; there is: linux-64 cuda, linux-64 cpu"
    ):
        choose_variant(read_variants(), "win-64", "cuda")

"""`satenv check` holds recipe/ and the environment equal in both directions."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.check.recipe import check_recipe
from cogvideo_sat_env.spec.breakage import Ledger, read_ledger
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.variants import read_variants

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files that the recipe is compared with, and the recipe, to be broken."""
    shutil.copy(PROJECT / "environment.yml", tmp_path)
    for name in ("environments", "locks", "recipe"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    return tmp_path


def findings(root: Path, ledger: Ledger | None = None) -> list[str]:
    found = check_recipe(root, read_environment(root / "environment.yml"), read_variants(), ledger or read_ledger())
    return [f"{finding.file}: {finding.message} | {finding.mend}" for finding in found]


def edit(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, f"the test's own assumption about {path}"
    path.write_text(text)


def test_the_recipe_agrees_with_the_project(root):
    assert findings(root) == []


RECIPE_FAULTS = {
    "a requirement left out": (
        r"^ *- kornia >=0\.7\.3\n", "",
        r"cuda129_100 for linux-64 doesn't require 'kornia >=0\.7\.3', which environment\.yml asks for \| write",
    ),
    "a requirement more": (
        r"^( *)- einops\n( *- kornia)", r"\1- einops\n\1- pyarrow\n\2",
        r"cpu_0 for linux-64 requires 'pyarrow', which environments/linux-64-cpu\.yml doesn't ask for",
    ),
    "another bound": (
        r"- torchvision >=0\.20\.1,<0\.26", "- torchvision >=0.20.1",
        r"for osx-arm64 requires 'torchvision >=0\.20\.1', environments/osx-arm64\.yml asks for 'torchvision >=0\.20\.1,<0\.26'",
    ),
    "a pip requirement left out": (
        r"^ *- swissarmytransformer >=0\.4\.12\n", "",
        r"for linux-aarch64 doesn't require 'swissarmytransformer >=0\.4\.12', which environments/linux-aarch64\.yml asks for",
    ),
    "no driver asked for": (
        r"^ *- __cuda >=12\n", "", r"cuda129_100 for linux-64 doesn't require '__cuda >=12'",
    ),
    "a constraint left out": (
        r"run_constraints:(.*\n)( *- if: device == \"cpu\"\n *then:\n *- cuda-version 12\.9\.\*\n)", r"run_constraints:\1",
        r"cpu_0 for linux-64: the ledger's bound 'cuda-version 12\.9\.\*' is no run_constraint",
    ),
    "a constraint without a reason": (
        r"^( *)- cuda-version 12\.9\.\*\n( *- if: osx)", r"\1- cuda-version 12.9.*\n\1- pyarrow <30\n\2",
        r"cpu_0 for linux-64: run_constraint 'pyarrow <30' has no entry in the breakage ledger",
    ),
    "another version": (
        r'^  version: "[0-9.]+"', '  version: "99.0"',
        r"recipe\.yaml:\d+: cogvideo-sat-env has version 99\.0; the program has \d",
    ),
    "another file of PyPI": (
        r'^  deepspeed_version: "[0-9.]+"', '  deepspeed_version: "0.15.3"',
        r"recipe\.yaml:\d+: version of deepspeed is 0\.15\.3, the pip locks have 0\.19\.8 \| write deepspeed_version",
    ),
    "other bytes of PyPI": (
        r"^  webdataset_sha256: [0-9a-f]{4}", "  webdataset_sha256: 0000",
        r"recipe\.yaml:\d+: SHA-256 of webdataset is 0000",
    ),
    "a piece that no lock has": (
        r"^  decord_version:", '  left_pad_version: "1.0"\n  decord_version:',
        r"recipe\.yaml:\d+: left_pad_version is of left-pad, which stands in no pip lock",
    ),
    "a piece not built": (
        r"skip: \[device == \"cuda\", target_platform != \"linux-aarch64\"\]", "skip: true",
        r"linux-aarch64: 'decord2 >=3\.4\.0' is in the pip part of environments/linux-aarch64\.yml; no output builds decord2",
    ),
    "a variant not built": (
        r"- osx and device == \"cuda\"", "- osx",
        r"builds no cogvideo-sat-env for osx-arm64 with device cpu",
    ),
    "a variant too many": (
        r"^ *- linux and aarch64 and device == \"cpu\"\n", "",
        r"builds cogvideo-sat-env for linux-aarch64 with device cpu, which is no variant",
    ),
    "not YAML": (r"^outputs:", "outputs: [", r"recipe\.yaml:\d+: .*expected the recipe in YAML"),
    "not a recipe": (r"^schema_version: 1", "schema_version: 99", r"can't be rendered"),
}  # fmt: skip


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_a_fault_of_the_recipe_is_named(root, fault):
    pattern, new, expected = RECIPE_FAULTS[fault]
    edit(root / "recipe" / "recipe.yaml", pattern, new)
    found = findings(root)
    assert any(re.search(expected, finding) for finding in found), found


def test_a_spec_that_the_recipe_lacks_is_named(root):
    edit(root / "environment.yml", r"^  - einops ", "  - pyarrow >=20  # columns\n  - einops ")
    assert any("doesn't require 'pyarrow >=20', which environment.yml asks for" in found for found in findings(root))


def test_a_missing_recipe_is_named(root):
    (root / "recipe" / "recipe.yaml").unlink()
    (found,) = findings(root)
    assert found.startswith("recipe/recipe.yaml: ") and "no such file" in found


def test_a_patch_and_its_entry_need_each_other(root):
    folder = next((root / "recipe" / "patches").iterdir())
    (folder / "9999-by-night.patch").write_text("")
    found = findings(root)
    assert any("9999-by-night.patch: has no entry in the breakage ledger" in finding for finding in found), found
    ledger = read_ledger()
    entry = replace(ledger.entries[0], package=folder.name, bound="0000-gone.patch")
    found = findings(root, replace(ledger, patches=(*ledger.patches, entry)))
    assert any(f"there is no recipe/patches/{folder.name}/0000-gone.patch" in finding for finding in found), found


def test_a_renderer_that_crashes_is_named(root, monkeypatch):
    fake = root / "python"
    fake.write_text("#!/bin/sh\nkill -ABRT $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    (found,) = findings(root)
    assert re.search(r"recipe\.yaml: can't be rendered: the renderer ended with code -6", found)

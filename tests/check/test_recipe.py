"""recipe/: what is generated comes back whatever is edited there; `satenv check` names what isn't generated."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.check.recipe import check_recipe
from cogvideo_sat_env.lock.render_recipe import PINS, RECIPE, recipe_files
from cogvideo_sat_env.spec.breakage import Ledger, read_ledger
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.variants import read_variants

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / RECIPE).read_text()
PIN = re.compile(r"^(\S+)==(\S+) --hash=sha256:(\w{64})$", re.M)
PIECES = [PipPin(name, version, sha256, "") for name, version, sha256 in PIN.findall((PROJECT / PINS).read_text())]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The spec, and the recipe, to be broken."""
    shutil.copy(PROJECT / "environment.yml", tmp_path)
    shutil.copytree(PROJECT / "recipe", tmp_path / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def rendered(root: Path, pins=PIECES, ledger: Ledger | None = None) -> dict[str, str]:
    return recipe_files(
        root, read_environment(root / "environment.yml"), read_variants(), ledger or read_ledger(), pins
    )


def findings(root: Path, ledger: Ledger | None = None) -> list[str]:
    found = check_recipe(root, read_environment(root / "environment.yml"), read_variants(), ledger or read_ledger())
    return [f"{finding.file}: {finding.message} | {finding.remedy}" for finding in found]


def edit(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, f"the test's own assumption about {path}"
    path.write_text(text)


def block(text: str, device: str) -> list[str]:
    """Return the generated lines of the metapackage for `device`, stripped."""
    (found,) = re.findall(rf"# >>> {device}: [^\n]*\n(.*?)^ *# <<<$", text, re.M | re.S)
    return [line.strip() for line in found.splitlines()]


def test_the_recipe_agrees_with_the_project(root):
    assert findings(root) == []
    assert rendered(root) == {RECIPE: TEXT, PINS: (PROJECT / PINS).read_text()}


BY_HAND = {
    "a requirement left out": (r"^ *- kornia >=0\.7\.3\n", ""),
    "a requirement more": (r"^( *)- einops\n( *- kornia)", r"\1- einops\n\1- pyarrow\n\2"),
    "another bound": (r"- torchvision >=0\.20\.1,<0\.26", "- torchvision >=0.20.1"),
    "a constraint left out": (
        r"^ *- cuda-version 12\.9\.\*\n( *- if: target_platform == \"linux-64\"\n *then:\n *- __cuda)",
        r"\1",
    ),
    "another version": (r'^  version: "[0-9.]+"', '  version: "99.0"'),
    "another version of a piece": (r'^  deepspeed_version: "[0-9.]+"', '  deepspeed_version: "0.15.3"'),
    "everything generated gone": (r"(?s)(# >>> cuda: [^\n]*\n).*?(^ *# <<<$)", r"\1\2"),
}


@pytest.mark.parametrize("how", BY_HAND)
def test_what_was_edited_by_hand_comes_back(root, how):
    edit(root / RECIPE, *BY_HAND[how])
    assert (root / RECIPE).read_text() != TEXT
    assert rendered(root)[RECIPE] == TEXT


def test_a_new_line_of_the_spec_is_required_on_every_platform(root):
    edit(root / "environment.yml", r"^  - einops ", "  - pyarrow >=20  # columns\n  - einops ")
    text = rendered(root)[RECIPE]
    for device in ("cuda", "cpu"):
        lines = block(text, device)
        assert "- pyarrow >=20" in lines[: lines.index('- if: target_platform == "linux-64"')]


def test_what_one_platform_has_stands_under_that_platform(root):
    lines = block(rendered(root)[RECIPE], "cuda")
    aarch64 = lines[lines.index('- if: target_platform == "linux-aarch64"') :]
    assert {"- gxx_linux-aarch64", "- sysroot_linux-aarch64 2.28.*", "- decord2 >=3.4.0"} <= set(aarch64)
    assert "- __cuda >=12" in lines and "- swissarmytransformer >=0.4.12" in lines


def test_a_bound_of_the_ledger_constrains_what_a_variant_doesnt_require(root):
    ledger = read_ledger()
    extra = replace(ledger.entries[0], package="pyarrow", bound="<30", pypi_name=None)
    text = rendered(root, ledger=replace(ledger, entries=(*ledger.entries, extra)))[RECIPE]
    for device in ("cuda", "cpu"):
        lines = block(text, device)
        assert lines.index("- pyarrow <30") > lines.index("run_constraints:")


def test_the_first_lock_gives_the_file_of_a_piece(root):
    other = PipPin("ninja", "9.9", "0" * 64, "")
    assert rendered(root, [*PIECES, other])[PINS] == (PROJECT / PINS).read_text()
    assert "ninja==9.9" in rendered(root, [other, *PIECES])[PINS]


@pytest.mark.parametrize(
    ("pattern", "new", "expected"),
    [
        (r"^  decord_version:", '  left_pad_version: "1.0"\n  decord_version:', r"recipe\.yaml:\d+: left_pad_version: no pip lock .* has left-pad"),
        (r"^ *# >>> cpu: .*\n", "", r"recipe\.yaml: no generated part '# >>> cpu: …' up to '# <<<'"),
        (r"^ *# <<<\n", "", r"recipe\.yaml: no generated part '# >>> cuda: …' up to '# <<<'"),  # not up to the next one
    ],
    ids=["a piece that no lock has", "a mark removed", "the mark of an end removed"],
)  # fmt: skip
def test_a_recipe_that_cant_be_generated_is_named(root, pattern, new, expected):
    edit(root / RECIPE, pattern, new)
    with pytest.raises(InputError, match=expected):
        rendered(root)


RECIPE_FAULTS = {
    "a piece not built": (
        r"skip: \[target_platform != \"linux-aarch64\"\]", "skip: true",
        r"linux-aarch64: 'decord2 >=3\.4\.0' is in the pip part of environments/linux-aarch64\.yml; no output builds decord2",
    ),
    "a variant not built": (
        r"skip: \[win, linux and aarch64, osx and x86_64\]", "skip: [win, linux and aarch64, osx]",
        r"builds no cogvideo-sat-env for osx-arm64 with device cpu",
    ),
    "a variant too many": (
        r"skip: \[win, linux and aarch64, osx and x86_64\]", "skip: [win]",
        r"builds cogvideo-sat-env for linux-aarch64 with device cpu, which is no variant",
    ),
    "not YAML": (r"^outputs:", "outputs: [", r"recipe\.yaml: can't be rendered"),
    "not a recipe": (r"^schema_version: 1", "schema_version: 99", r"can't be rendered"),
}  # fmt: skip


@pytest.mark.parametrize("fault", RECIPE_FAULTS)
def test_a_fault_of_the_recipe_is_named(root, fault):
    pattern, new, expected = RECIPE_FAULTS[fault]
    edit(root / RECIPE, pattern, new)
    found = findings(root)
    assert any(re.search(expected, finding) for finding in found), found


def test_a_missing_recipe_is_named(root):
    (root / RECIPE).unlink()
    (found,) = findings(root)
    assert found.startswith(f"{RECIPE}: ") and "can't be rendered" in found
    with pytest.raises(InputError, match=r"recipe\.yaml: No such file or directory; expected the recipe"):
        rendered(root)


def test_a_patch_and_its_entry_need_each_other(root):
    folder = root / "recipe" / "patches" / "deepspeed"
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
    assert "code -6" in found

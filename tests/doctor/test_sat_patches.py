"""The patches for a user's checkout: git applies them, each whole or not at all, and takes them out again."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.doctor.sat import checkout, code, configs, patches, rules
from satcheckout import make_checkout

PATCHES = Path(__file__).parents[2] / "recipe" / "patches" / "cogvideo"
HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


def sides(patch: Path) -> Mapping[str, tuple[list[str], list[str]]]:
    """Return file -> the lines that a patch expects at their places (others are fillers), and what it leaves there."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    name = ""
    for line in patch.read_text(encoding="utf-8").splitlines():
        hunk = HUNK.match(line)
        if line.startswith("+++ b/"):
            name = line[len("+++ b/") :]
            found[name] = ([], [])
        elif hunk and name:
            old, new = found[name]
            fill = [f"filler {number}" for number in range(len(old) + 1, int(hunk[1]))]
            old += fill
            new += fill
        elif name and line[:1] in (" ", "-", "+") and not line.startswith(("---", "+++")):
            for side, mark in ((found[name][0], "-"), (found[name][1], "+")):
                side += [line[1:]] if line[0] in (" ", mark) else []
        elif line.startswith("diff --git"):
            name = ""
    return found


@pytest.fixture
def sat(tmp_path: Path) -> Path:
    """A checkout whose files are what the patches expect: made of their own context, in a repository."""
    sat = make_checkout(tmp_path / "CogVideo", git=True)
    (tmp_path / "CogVideo" / "tools").mkdir()
    return sat


def write(top: Path, patch: patches.Patch) -> dict[Path, str]:
    """Write the files that one patch expects; return what must be in them with the patch."""
    wanted = {}
    for name, (old, new) in sides(patch.file).items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("\n".join(old) + "\n", encoding="utf-8")
        wanted[top / name] = "\n".join(new) + "\n"
    return wanted


@pytest.mark.parametrize("patch", patches.read_patches(PATCHES), ids=lambda patch: patch.file.stem)
@pytest.mark.parametrize("repository", [True, False])
def test_each_patch_applies_with_git_and_comes_out_again(sat, patch, repository):
    if not repository:
        subprocess.run(["rm", "-rf", str(sat.parent / ".git")], check=True)  # an unpacked archive
    wanted = write(sat.parent, patch)
    before = {path: path.read_text() for path in wanted}
    found = checkout.find(sat)
    assert [item.status for item in patches.apply(found, [patch])] == [patches.APPLIED]
    assert {path: path.read_text() for path in wanted} == wanted
    assert [item.status for item in patches.apply(found, [patch])] == [patches.THERE]
    assert [item.status for item in patches.apply(found, [patch], reverse=True)] == [patches.APPLIED]
    assert {path: path.read_text() for path in wanted} == before
    assert patch.means and not patch.means.startswith("diff ")


def test_a_patch_that_does_not_fit_changes_nothing_and_says_which_line(sat):
    patch = patches.read_patches(PATCHES)[0]
    wanted = write(sat.parent, patch)
    last = list(wanted)[-1]
    last.write_text("something else\n")
    before = {path: path.read_text() for path in wanted}
    (result,) = patches.apply(checkout.find(sat), [patch])
    assert result.status == patches.UNFIT and last.name in result.reason
    assert {path: path.read_text() for path in wanted} == before


def test_without_git_one_error_says_what_is_missing(sat, monkeypatch):
    monkeypatch.setenv("PATH", str(sat))
    with pytest.raises(MissingToolError, match="git"):
        patches.apply(checkout.find(sat), patches.read_patches(PATCHES))


def test_without_the_projects_patches_one_error_says_where_they_are(tmp_path):
    with pytest.raises(InputError, match="no patches there"):
        patches.read_patches(tmp_path)


@pytest.mark.skipif("SATENV_TEST_SAT" not in os.environ, reason="SATENV_TEST_SAT names no checkout of CogVideo")
def test_on_upstreams_own_checkout_the_patches_leave_nothing_of_what_they_mend(tmp_path):
    top = tmp_path / "CogVideo"
    subprocess.run(["git", "clone", "-q", os.environ["SATENV_TEST_SAT"], str(top)], check=True)
    subprocess.run(["git", "-C", str(top), "checkout", "-q", checkout.KNOWN_GOOD], check=True)
    found = checkout.find(top)
    results = patches.apply(found, patches.read_patches(PATCHES))
    assert {item.status for item in results} == {patches.APPLIED}
    found = checkout.find(top)
    assert list(code.scripts(found)) == []
    for file in sorted((found.folder / "configs").glob("cogvideox*.yaml")):
        run = rules.Run(found, configs.read([file, found.folder / "configs" / "sft.yaml"]))
        ids = {item.id for item in rules.judge(run)}
        assert not ids & {"sat.patch-size", "sat.interpolation", "sat.ofs"}, file

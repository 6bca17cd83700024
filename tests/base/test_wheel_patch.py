"""A patch is applied strictly: as it was made, or not at all, and the wheel's RECORD follows."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cogvideo_sat_env.base import wheel_patch
from cogvideo_sat_env.base.wheel_patch import PatchError, patch_wheel, patches_of

HEAD = "why\n\n--- a/sat/a.py\n+++ b/sat/a.py\n"


def wheel_of(folder: Path, text: str) -> Path:
    """Return a wheel that holds sat/a.py with `text`."""
    path = folder / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("sat/a.py", text)
        out.writestr("x-1.dist-info/RECORD", "sat/a.py,sha256=old,1\nx-1.dist-info/RECORD,,\n")
    return path


def patch_of(folder: Path, text: str) -> Path:
    path = folder / "0001.patch"
    path.write_text(text)
    return path


def test_a_patch_changes_its_lines_and_the_record(tmp_path):
    wheel = wheel_of(tmp_path, "one\ntwo\nthree\nfour\n")
    patch = HEAD + "@@ -1,2 +1,3 @@\n one\n+one and a half\n two\n@@ -4 +5 @@\n-four\n+4\n"
    patch_wheel(wheel, [patch_of(tmp_path, patch)])
    expected = "one\none and a half\ntwo\nthree\n4\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(expected.encode()).digest()).decode().rstrip("=")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("sat/a.py").decode() == expected
        rows = archive.read("x-1.dist-info/RECORD").decode().splitlines()
    assert rows == [f"sat/a.py,sha256={digest},{len(expected)}", "x-1.dist-info/RECORD,,"]


@pytest.mark.parametrize(
    ("text", "patch", "message"),
    [
        ("one\nTWO\n", HEAD + "@@ -1,2 +1,2 @@\n one\n-two\n+2\n", "line 1 is not what the patch expects"),
        ("zero\none\ntwo\n", HEAD + "@@ -1,2 +1,2 @@\n one\n-two\n+2\n", "line 1 is not what the patch expects"),
        ("one\n", HEAD + "@@ -7 +7 @@\n-seven\n+7\n", "line 7 is not what the patch expects"),
        ("one\n", HEAD.replace("sat/a.py", "sat/b.py") + "@@ -1 +1 @@\n-one\n+1\n", "has no sat/b.py"),
        ("one\n", HEAD, "no hunk found"),
    ],
    ids=["another line", "moved", "past the end", "another file", "no hunk"],
)
def test_a_patch_that_doesnt_fit_changes_nothing(tmp_path, text, patch, message):
    wheel = wheel_of(tmp_path, text)
    before = wheel.read_bytes()
    with pytest.raises(PatchError, match=message):
        patch_wheel(wheel, [patch_of(tmp_path, patch)])
    assert wheel.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["0001.patch", wheel.name]


@pytest.mark.parametrize("name", ["swissarmytransformer", "SwissArmyTransformer"])
def test_patches_are_found_by_any_spelling_in_order(name):
    found = patches_of(Path(__file__).parents[2] / "recipe", name)
    assert [path.name[:4] for path in found] == [f"{number:04}" for number in range(1, len(found) + 1)]
    assert len(found) >= 4


def test_it_needs_the_standard_library_only():
    """recipe/build.py imports it in the Python of a build environment."""
    code = f"import sys; sys.path.insert(0, {str(Path(wheel_patch.__file__).parents[2])!r})\nimport cogvideo_sat_env.base.wheel_patch"
    subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], check=True)

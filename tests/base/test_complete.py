"""A folder that is made once is complete or absent, and a purge, another Python or a killed run is noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvideo_sat_env.base import complete


def fill(place: str) -> None:
    (Path(place) / "lib" / "deep").mkdir(parents=True)
    for name in ("lib/a.py", "lib/deep/b.so", "top"):
        (Path(place) / name).write_text(name)
    os.symlink("lib", Path(place) / "lib64")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    complete.make_once(str(tmp_path / "cache" / "it"), fill)
    return tmp_path / "cache" / "it"


def test_what_is_complete_stays_as_it_is(folder: Path) -> None:
    before = os.stat(folder)
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "a.cpython-311.pyc").touch()
    complete.make_once(str(folder), fill)
    assert os.stat(folder).st_ino == before.st_ino
    (folder / "lib" / "__pycache__" / "a.cpython-311.pyc").unlink()
    assert complete.is_complete(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "lib" / "deep" / "b.so").unlink(),
        lambda folder: (folder / "lib64").unlink(),
        lambda folder: ((folder / "lib" / "deep" / "b.so").unlink(), (folder / "lib" / "deep").rmdir()),
        lambda folder: (folder / "complete").unlink(),
        lambda folder: (folder / "complete").write_text(""),
        lambda folder: (folder / "complete").write_bytes(b"\xff\0"),
        lambda folder: (folder / "complete").write_text((folder / "complete").read_text().replace("3.", "2.", 1)),
        lambda folder: (folder / "complete").write_text((folder / "complete").read_text()[:-9] + "x y\n"),
    ],
)
def test_what_has_lost_a_file_or_its_python_is_made_again(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    assert not complete.is_complete(folder)
    (folder.parent / ".it.killed").mkdir()
    complete.make_once(str(folder), fill)
    assert complete.is_complete(folder) and (folder / "lib" / "deep" / "b.so").read_text() == "lib/deep/b.so"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["it", "it.lock"]


def test_what_fails_leaves_the_old_one(folder: Path) -> None:
    (folder / "top").unlink()

    def fails(place: str) -> None:
        fill(place)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        complete.make_once(str(folder), fails)
    assert (folder / "lib" / "a.py").exists() and sorted(p.name for p in folder.parent.iterdir()) == ["it", "it.lock"]

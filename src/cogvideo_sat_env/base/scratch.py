"""Scratch folders that a killed run leaves behind only until the next run."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder below `parent` (TMPDIR) whose name begins with `prefix`, and remove it after the block.

    Those of this user's killed runs are removed first; a living run keeps its own locked. Raises OSError.
    """
    place = parent or Path(tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    sweep(place, prefix)
    with tempfile.TemporaryDirectory(dir=place, prefix=prefix) as name, _locked(Path(name)):
        yield Path(name)


def sweep(place: Path, prefix: str = "") -> None:
    """Remove the folders in `place` whose names begin with `prefix`, but those that a living run keeps locked."""
    for left in place.glob(f"{prefix}*"):
        with _locked(left) as mine:
            if mine:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder of this user's for as long as this process lives; yield whether that was possible."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another run has just removed it, or it is another user's
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(descriptor)
            mine = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
        except OSError:  # in use, or a file system without locks
            mine = False
        yield mine
    finally:
        os.close(descriptor)

"""The prefix is complete or absent: work happens in a hidden sibling directory that is renamed into place.

Siblings of PREFIX/NAME, all on its file system:
  .NAME.satenv-new-XXXX    a prefix being made
  .NAME.satenv-old-XXXX    the prefix that is being replaced, whole, between two renames
  .NAME.satenv-trash-XXXX  something being deleted, perhaps half gone; never put back
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from pathlib import Path

from cogvideo_sat_env.errors import PrefixError
from cogvideo_sat_env.progress import Progress

NEW, OLD, TRASH = "new", "old", "trash"
WRITERS_SECONDS = 30  # that the children of a killed run may take to notice
_held: dict[Path, int] = {}  # open staging directories of this process, locked


def siblings(prefix: Path, kind: str) -> list[Path]:
    """Return the siblings of `prefix` of one kind (NEW, OLD or TRASH), sorted."""
    start = f".{prefix.name}.satenv-{kind}-"
    return sorted(path for path in prefix.parent.iterdir() if path.name.startswith(start))


def any_left(prefix: Path) -> bool:
    """Tell whether a run (a killed or a living one) has siblings of `prefix` now."""
    return any(siblings(prefix, kind) for kind in (NEW, OLD, TRASH))


def make(prefix: Path) -> Path:
    """Make and return an empty staging directory for `prefix`. Raises PrefixError when the parent isn't writable."""
    path = _sibling(prefix, NEW)
    try:
        path.mkdir()
        _held[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # a file system without locks on directories
            fcntl.flock(_held[path], fcntl.LOCK_EX)
    except OSError as error:
        raise PrefixError(
            f"{prefix.parent}: {error.strerror}; nothing can be made there", "choose another prefix with -p"
        ) from error
    return path


def held_fds() -> tuple[int, ...]:
    """Return descriptors for child processes that write into a staging directory: a child keeps its lock alive."""
    return tuple(_held.values())


def _release(path: Path) -> None:
    descriptor = _held.pop(path, None)
    if descriptor is not None:
        os.close(descriptor)


def _await_writers(path: Path) -> None:
    """Wait until the children of a killed run have ended: they would write into what is being deleted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        until = time.monotonic() + WRITERS_SECONDS
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks on directories
                return
    finally:
        os.close(descriptor)


def recover(prefix: Path, progress: Progress) -> None:
    """Undo what a killed run left: put back a prefix caught between two renames, delete the rest. Needs the lock."""
    for old in siblings(prefix, OLD):
        if os.path.lexists(prefix):
            discard(prefix, old)
        else:
            progress.say(f"{prefix}: an earlier run was cut off while replacing it; the old one is put back")
            old.rename(prefix)
    for left in [*siblings(prefix, NEW), *siblings(prefix, TRASH)]:
        progress.say(f"{prefix}: removing what an earlier run left in {left.name}")
        _release(left)  # of this process: under the prefix's lock it is no longer in use
        _await_writers(left)
        discard(prefix, left)


def discard(prefix: Path, path: Path) -> None:
    """Delete the sibling `path` of `prefix`; renamed first, so that a half-deleted one is never taken for whole."""
    _release(path)
    trash = path if path in siblings(prefix, TRASH) else _sibling(prefix, TRASH)
    if path != trash:
        path.rename(trash)
    for pause in (0.0, 0.1, 0.5, 2.0):  # a file that is being closed elsewhere (NFS) makes its folder non-empty
        time.sleep(pause)
        try:
            shutil.rmtree(trash)
            return
        except OSError as error:
            failure = error
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.ESTALE):
                break
    raise PrefixError(f"{trash}: can't be deleted: {failure}", "delete it by hand; it is not in use") from failure


def commit(prefix: Path, staging: Path) -> bool:
    """Rename `staging` to `prefix`, deleting the prefix that was there. Return whether there was one.

    SIGKILL at any point leaves the old prefix, the new one, or (for the moment between two renames) none in place
    with both whole beside it; `recover` then puts the old one back.
    """
    _release(staging)
    if not os.path.lexists(prefix) or not any(prefix.iterdir()):
        staging.rename(prefix)  # onto an empty directory, too: POSIX allows it
        return False
    old = _sibling(prefix, OLD)
    prefix.rename(old)
    try:
        staging.rename(prefix)
    except OSError:
        old.rename(prefix)
        raise
    discard(prefix, old)
    return True


def _sibling(prefix: Path, kind: str) -> Path:
    return prefix.with_name(f".{prefix.name}.satenv-{kind}-{secrets.token_hex(4)}")

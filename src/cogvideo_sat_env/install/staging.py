"""The prefix is complete or absent: work happens in a hidden sibling directory that is renamed into place.

Siblings of PREFIX/NAME, all on its file system:
  .NAME.satenv-new-XXXX    a prefix being made
  .NAME.satenv-old-XXXX    the prefix that is being replaced, whole, between two renames
  .NAME.satenv-trash-XXXX  something being deleted, perhaps half gone; never put back
  .NAME.satenv-undo-XXXX   the prefix before the last update, whole, kept for `satenv undo`
  .NAME.satenv-aside-XXXX  what a repair moved out of the prefix because the lock doesn't have it; the user's to delete
In a mount point, which can't be renamed, they are made inside, and then filled in place:
  .NAME.satenv-filling-XXXX  is there as long as it isn't complete; what else is there is nobody's then
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.files import remove
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.own_files import PENDING

NEW, OLD, TRASH, UNDO, ASIDE, FILLING = "new", "old", "trash", "undo", "aside", "filling"
WRITERS_SECONDS = 30  # that the children of a killed run may take to notice
_held: dict[Path, int] = {}  # open staging directories of this process, locked


def is_mount(prefix: Path) -> bool:
    """Tell whether something is mounted at `prefix`: a directory that can't be renamed (a container's volume)."""
    if not prefix.is_dir() or prefix.is_symlink():
        return False
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return os.path.ismount(prefix)
    real = os.path.realpath(prefix)
    return any(_ESCAPE.sub(lambda code: chr(int(code[1], 8)), line.split()[4]) == real for line in lines)


_ESCAPE = re.compile(r"\\([0-7]{3})")


def home(prefix: Path) -> Path:
    """Return the folder where all is made before it takes the place of `prefix`: beside it, or in a mount point."""
    return prefix if is_mount(prefix) else prefix.parent


def is_free(prefix: Path) -> bool:
    """Whether nothing is at `prefix`, or an empty folder; what a run works with and lost+found don't count."""
    return not prefix.exists() or not _content(prefix) or (is_mount(prefix) and bool(siblings(prefix, FILLING)))


def _content(prefix: Path) -> list[Path]:
    """Return what an environment at `prefix` consists of: all but what runs have in a mount point."""
    own = (f".{prefix.name}.satenv-", f".{prefix.name}.lock")
    return [path for path in prefix.iterdir() if not path.name.startswith(own) and path.name != "lost+found"]


def siblings(prefix: Path, kind: str) -> list[Path]:
    """Return the siblings of `prefix` of one kind (NEW, OLD, TRASH or UNDO), sorted."""
    start = f".{prefix.name}.satenv-{kind}-"
    return sorted(path for path in home(prefix).iterdir() if path.name.startswith(start))


def any_left(prefix: Path) -> bool:
    """Tell whether a run (a killed or a living one) has siblings of `prefix` now."""
    return any(siblings(prefix, kind) for kind in (NEW, OLD, TRASH, FILLING))


def make(prefix: Path) -> Path:
    """Make and return an empty staging directory for `prefix`. Raises PrefixError when the parent isn't writable."""
    path = sibling(prefix, NEW)
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
    if marks := siblings(prefix, FILLING):
        progress.say(f"{prefix}: an earlier run was cut off while filling it; it is emptied")
        for mark in marks:
            _empty(prefix, mark.read_text("utf-8").splitlines())
            mark.unlink()
    if (prefix / PENDING).exists():
        progress.say(f"{prefix}: an earlier run was cut off before its link scripts had ended; it is made anew")
        if is_mount(prefix):
            _empty(prefix, [path.name for path in _content(prefix)])
        else:
            discard(prefix, prefix, progress)
    for old in siblings(prefix, OLD):
        if os.path.lexists(prefix):
            discard(prefix, old, progress)
        else:
            progress.say(f"{prefix}: an earlier run was cut off while replacing it; the old one is put back")
            old.rename(prefix)
    for left in [*siblings(prefix, NEW), *siblings(prefix, TRASH)]:
        progress.say(f"{prefix}: removing what an earlier run left in {left.name}")
        _release(left)  # of this process: under the prefix's lock it is no longer in use
        _await_writers(left)
        discard(prefix, left, progress)


def discard(prefix: Path, path: Path, progress: Progress) -> None:
    """Delete the sibling `path` of `prefix`; where that can't be it is reported: what was done stays done."""
    try:
        delete(prefix, path)
    except PrefixError as error:
        progress.say(f"warning: {error.message}; {error.remedy}")


def delete(prefix: Path, path: Path) -> None:
    """Delete the sibling `path` of `prefix`; renamed first, so that a half-deleted one is never taken for whole.

    Raises PrefixError.
    """
    _release(path)
    trash = path if path in siblings(prefix, TRASH) else sibling(prefix, TRASH)
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


def commit(prefix: Path, staging: Path) -> Path | None:
    """Rename `staging` to `prefix`. Return where the prefix that was there is now, if there was one.

    SIGKILL at any point leaves the old prefix, the new one, or (for the moment between two renames) none in place
    with both whole beside it; `recover` then puts the old one back. To be followed by `settle` or `take_back`.
    """
    _release(staging)
    if is_mount(prefix):
        _fill(prefix, staging)
        return None
    if not os.path.lexists(prefix) or not any(prefix.iterdir()):
        staging.rename(prefix)  # onto an empty directory, too: POSIX allows it
        return None
    old = sibling(prefix, OLD)
    prefix.rename(old)
    try:
        staging.rename(prefix)
    except OSError:
        old.rename(prefix)
        raise
    return old


def _fill(prefix: Path, staging: Path) -> None:
    """Move what is in `staging` into the mount point `prefix`; the receipt comes last, a mark says how far it is."""
    mark = sibling(prefix, FILLING)
    made = sorted(staging.iterdir(), key=lambda path: path.name == "etc")
    mark.write_text("".join(f"{path.name}\n" for path in made), encoding="utf-8")
    try:
        for path in made:
            path.rename(prefix / path.name)
        staging.rmdir()
    except BaseException:
        _empty(prefix, [path.name for path in made])
        raise
    finally:
        mark.unlink()


def _empty(prefix: Path, names: Iterable[str]) -> None:
    for name in names:
        remove(prefix / name)


def settle(prefix: Path, old: Path | None, keep: bool, progress: Progress) -> None:
    """The new prefix is good: delete the old one, or `keep` it for undo in place of what was kept before."""
    before = siblings(prefix, UNDO)
    if old is not None and keep:
        old.rename(sibling(prefix, UNDO))
    elif old is not None:
        discard(prefix, old, progress)
    if old is not None:
        for path in before:
            discard(prefix, path, progress)


def take_back(prefix: Path, old: Path | None, progress: Progress) -> None:
    """Undo a `commit`: the old prefix is put back, the new one deleted."""
    if is_mount(prefix):
        _empty(prefix, [path.name for path in _content(prefix)])
        return
    new = sibling(prefix, TRASH)
    prefix.rename(new)
    if old is not None:
        old.rename(prefix)
    discard(prefix, new, progress)


def kept(prefix: Path) -> Path | None:
    """Return the prefix that is kept for undo, or None."""
    found = siblings(prefix, UNDO) if home(prefix).is_dir() else []
    return found[-1] if found else None


def swap(prefix: Path, other: Path) -> None:
    """Put the sibling `other` in place of `prefix`, which is kept for undo in its stead.

    SIGKILL at any point leaves one of the two in place, or is put right by `recover`.
    """
    old = commit(prefix, other)
    if old is not None:
        old.rename(sibling(prefix, UNDO))


def drop_kept(prefix: Path) -> int:
    """Delete what is kept for undo; return how many prefixes that were."""
    found = siblings(prefix, UNDO)
    for path in found:
        delete(prefix, path)
    return len(found)


def sibling(prefix: Path, kind: str) -> Path:
    """Return the path of a new sibling of `prefix` of one kind."""
    return home(prefix) / f".{prefix.name}.satenv-{kind}-{secrets.token_hex(4)}"

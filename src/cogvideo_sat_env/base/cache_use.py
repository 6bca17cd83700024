"""Who uses the cache now, and when what was used last: so that `cache prune` takes nothing from a running command.

CACHE/use.lock  locked (flock) by every command while it takes things from the cache; exclusively by prune

Python's standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cogvideo_sat_env.base.permissions import cache_umask

if TYPE_CHECKING:  # processes that work on files import this module, and start in a moment
    from cogvideo_sat_env.base.progress import Progress

_held: set[Path] = set()  # caches that this process has locked


@contextmanager
def in_use(cache: Path, progress: Progress) -> Iterator[None]:
    """Have `cache` count as used in the block, after a prune of it that is under way; blocks may be nested.

    Where the cache can't be written or its file system has no such locks, the marks of `mark_used` alone protect.
    """
    descriptor = None
    if cache not in _held:
        with contextlib.suppress(OSError), cache_umask():
            cache.mkdir(parents=True, exist_ok=True)
            descriptor = _open(cache)
    if descriptor is None:
        yield
        return
    _held.add(cache)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.say(f"{cache}: waiting for a prune of the cache to end")
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        if Path(sys.prefix).parent.parent == cache:
            mark_used(Path(sys.prefix))
        yield
    finally:
        _held.discard(cache)
        os.close(descriptor)


@contextmanager
def alone(cache: Path) -> Iterator[bool]:
    """Keep other commands from starting to use `cache` in the block; yield whether none uses it now.

    Raises OSError for a cache that can't be written.
    """
    descriptor = _open(cache)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nobody = True
        except OSError:  # in use, or a file system without such locks
            nobody = False
        yield nobody
    finally:
        os.close(descriptor)


def mark_used(path: Path) -> None:
    """Record that a file or folder of the cache is used now, as its modification time."""
    with contextlib.suppress(OSError):  # another user's, or read-only: whoever prunes it has marks of their own
        os.utime(path)


def _open(cache: Path) -> int:
    return os.open(cache / "use.lock", os.O_RDWR | os.O_CREAT, 0o644)

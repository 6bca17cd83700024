"""Who uses the cache now, and when what was used last: so that `cache prune` takes nothing from a running command.

CACHE/use.lock  locked (flock) by every command that takes things from the cache until it ends; exclusively by prune

Python's standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_held: dict[Path, int] = {}  # open locks of this process, kept until it ends


def hold(cache: Path, waiting: Callable[[], None] = lambda: None) -> None:
    """Have `cache` count as used until this process ends; `waiting` is called before it waits for a prune to end.

    Where the cache can't be written or its file system has no such locks, the marks of `mark_used` alone protect.
    """
    if cache in _held:
        return
    try:
        descriptor = _open(cache)
    except OSError:
        return
    _held[cache] = descriptor
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
    if Path(sys.prefix).parent.parent == cache:
        mark_used(Path(sys.prefix))


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

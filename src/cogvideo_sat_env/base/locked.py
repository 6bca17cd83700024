"""A lock file that a command holds while it works on a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import PrefixError


@contextmanager
def locked(lock: Path, folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the file `lock` in the block, for work on `folder`; `waiting` is called before another run is waited for.

    Raises PrefixError when the lock can't be written, or, without `waiting`, when another run holds it.
    """
    held = FileLock(lock)
    try:
        lock.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        held.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise PrefixError(
                f"{folder}: another run is at work on it", "wait for it, or name another folder"
            ) from None
        waiting()
        held.acquire()
    except OSError as error:
        if error.errno in diskspace.FULL:
            raise
        raise PrefixError(
            f"{folder}: {error.strerror}; expected a folder that can be written", "name another folder"
        ) from error
    try:
        yield
    finally:
        held.release()

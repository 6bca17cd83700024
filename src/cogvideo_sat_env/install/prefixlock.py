"""One lock per prefix, so that two runs never work on the same prefix at once."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from cogvideo_sat_env.errors import PrefixError
from cogvideo_sat_env.progress import Progress


def lock_path(prefix: Path) -> Path:
    """Return the lock file of `prefix`: a sibling, there before the prefix is."""
    return prefix.with_name(f".{prefix.name}.lock")


@contextmanager
def prefix_lock(prefix: Path, progress: Progress, timeout: float | None = None) -> Iterator[None]:
    """Hold the lock of `prefix`, waiting up to `timeout` seconds for another holder (None: as long as it takes).

    The lock is the kernel's (flock, which NFS passes on to the server), so it ends with its holder however that dies.
    Raises PrefixError, naming host, process and time of the holder, when the wait is over or the lock can't be made.
    """
    path = lock_path(prefix)
    lock = FileLock(str(path), poll_interval=0.2)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"{prefix}: waiting for {_holder(path)}, who is at work on it")
            lock.acquire(timeout=-1 if timeout is None else timeout)
    except Timeout as error:
        raise PrefixError(
            f"{prefix}: still locked after {timeout:g} s by {_holder(path)}",
            f"wait for that run, or end it; the lock {path} is released when the process ends",
        ) from error
    except OSError as error:
        raise PrefixError(
            f"{path}: {error.strerror}; the lock of the prefix can't be made", "choose a prefix in a writable folder"
        ) from error
    try:
        _write_owner(path)
        yield
    finally:
        _owner_path(path).unlink(missing_ok=True)
        lock.release()


def _owner_path(path: Path) -> Path:
    # not the lock file itself: on NFS, closing a second descriptor of it would release the lock
    return path.with_name(f"{path.name}.owner")


def _write_owner(path: Path) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    partial = _owner_path(path).with_suffix(".partial")
    partial.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    partial.replace(_owner_path(path))


def _holder(path: Path) -> str:
    try:
        owner = json.loads(_owner_path(path).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its note, or an older note
        return "another process"

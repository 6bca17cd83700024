"""Disk space: asked for before the work, with a plain message when it ends in the middle."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.progress import human_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)
MARKS = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")  # as libraries spell them


def existing(path: Path) -> Path:
    """Return `path` or its nearest ancestor that exists."""
    while not path.exists():
        path = path.parent
    return path


def same_file_system(one: Path, other: Path) -> bool:
    """Tell whether both paths (or their nearest existing ancestors) lie on one file system."""
    return os.stat(existing(one)).st_dev == os.stat(existing(other)).st_dev


def require(folder: Path, needed: int, what: str) -> None:
    """Raise PrefixError when the file system of `folder` has less than `needed` bytes free for `what`."""
    free = shutil.disk_usage(existing(folder)).free
    if needed > free:
        raise PrefixError(
            f"{folder}: {human_bytes(needed)} ({needed:,} bytes) needed for {what}; only {human_bytes(free)} free",
            "free some space, or choose another place (-p for the prefix, SATENV_CACHE for the cache)",
        )


def full(folder: Path, what: str, needed: int | None = None) -> PrefixError:
    """Return the error for a disk that filled up while `what` was written to `folder`; `needed` in bytes."""
    system = os.statvfs(existing(folder))
    if system.f_files and not system.f_favail:
        return PrefixError(
            f"{folder}: no file can be made there any more while writing {what}: its inodes are used up",
            "delete files there, ask for a larger quota of files, or choose another place (-p, SATENV_CACHE)",
        )
    amount = f"; {human_bytes(needed)} ({needed:,} bytes) needed for {what}" if needed else f" while writing {what}"
    free = f"{human_bytes(system.f_bavail * system.f_frsize)} and {system.f_favail:,} inodes are free there now"
    return PrefixError(
        f"{folder}: no space left on the device, or quota exceeded{amount} ({free})",
        "free some space, or choose another place (-p for the prefix, SATENV_CACHE for the cache)",
    )


@contextmanager
def watch(folder: Path, what: str, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk and a refused write inside the block into a PrefixError that names `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise full(folder, what, needed) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PrefixError(
                f"{error.filename or folder}: {error.strerror}; {what} can't be written",
                "choose a writable place (-p for the prefix, SATENV_CACHE for the cache)",
            ) from error
        raise

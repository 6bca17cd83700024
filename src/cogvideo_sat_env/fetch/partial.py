"""A file that is being received: FILE.partial, held by one process at a time, renamed when it is proven."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cogvideo_sat_env.base.hashing import CHUNK


class Partial:
    """What has arrived so far, with its SHA-256 so far."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        self._digest = hashlib.sha256()
        self.size = 0
        while piece := stream.read(CHUNK):  # of an earlier run
            self._digest.update(piece)
            self.size += len(piece)

    def restart(self) -> None:
        """Forget everything that has arrived."""
        self._stream.seek(0)
        self._stream.truncate()
        self._digest, self.size = hashlib.sha256(), 0

    def write(self, piece: bytes) -> None:
        """Append `piece`."""
        self._digest.update(piece)
        self._stream.write(piece)
        self._stream.flush()  # what has arrived counts, also when this process is killed
        self.size += len(piece)

    def hexdigest(self) -> str:
        """Return the SHA-256 of all that has arrived."""
        return self._digest.hexdigest()

    def keep_as(self, path: Path) -> None:
        """Give the proven file its name, its bytes on the disk first."""
        os.fsync(self._stream.fileno())
        os.replace(self.path, path)


@contextmanager
def hold(target: Path) -> Iterator[Partial]:
    """Open `target`.partial for this process alone, waiting while another one has it; an empty one is removed after.

    Without locks on the file system each process gets a partial file of its own, which no other run resumes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}.partial")
    while True:
        stream = _open(path)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            stream.close()
            path = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
            stream = _open(path)
            break
        if _is_at(stream, path):
            break
        stream.close()  # the other process has renamed or removed it meanwhile
    try:
        stream.seek(0)
        partial = Partial(path, stream)
        yield partial
    finally:
        empty = os.fstat(stream.fileno()).st_size == 0
        if empty and _is_at(stream, path):
            path.unlink(missing_ok=True)
        stream.close()


def _open(path: Path) -> BinaryIO:
    """Open a file of this user's own at `path`, made anew where another thing lies: a link could lead anywhere."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EACCES, errno.ENXIO) or not os.path.lexists(path):
                raise
        else:
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1 and found.st_uid == os.geteuid():
                return os.fdopen(handle, "a+b")
            os.close(handle)
            if found.st_nlink == 0:  # another process has just renamed or removed it
                continue
        path.unlink(missing_ok=True)


def _is_at(stream: BinaryIO, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(stream.fileno()), there)

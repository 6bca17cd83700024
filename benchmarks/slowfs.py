"""A folder as a client of a distant file server sees it: FUSE, read-only, each call to it delayed and counted.

    python benchmarks/slowfs.py FOLDER MOUNT MILLISECONDS COUNTS        until it is unmounted

The kernel keeps names and attributes for 3 seconds, found or not, as an NFS client does, and the bytes of files as long
as they don't change; what it asks for beyond that is a call to the server. COUNTS is a file of five 64-bit numbers:
names and attributes looked up, folders listed, files opened, reads, bytes. Needs mfusepy (`pip install mfusepy`) and
libfuse.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import threading
import time

KINDS = ("lookups", "listings", "opens", "reads", "bytes")
SIZE = 8 * len(KINDS)
_KEPT = 3.0  # seconds


def main() -> None:
    """Serve until unmounted."""
    import mfusepy

    folder, mount, milliseconds, counts = sys.argv[1:]
    with open(counts, "r+b") as stream:
        shared = mmap.mmap(stream.fileno(), SIZE)
    delay, lock = float(milliseconds) / 1000, threading.Lock()

    def call(kind: str, more: int = 0) -> None:
        with lock:
            for name, amount in ((kind, 1), ("bytes", more)):
                place = 8 * KINDS.index(name)
                struct.pack_into("q", shared, place, struct.unpack_from("q", shared, place)[0] + amount)
        time.sleep(delay)

    class Slow(mfusepy.Operations):
        """What an import, a mount and a copy need."""

        use_ns = True

        def getattr(self, path, fh=None):
            call("lookups")
            try:
                found = os.lstat(folder + path)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from error
            keys = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks")
            times = {name: getattr(found, f"{name}_ns") for name in ("st_mtime", "st_ctime", "st_atime")}
            return {key: getattr(found, key) for key in keys} | times

        def readlink(self, path):
            call("lookups")
            return os.readlink(folder + path)

        def readdir(self, path, fh):
            call("listings")
            return [".", "..", *os.listdir(folder + path)]

        def open(self, path, flags):
            call("opens")
            try:
                return os.open(folder + path, os.O_RDONLY)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from error

        def read(self, path, size, offset, fh):
            found = os.pread(fh, size, offset)
            call("reads", len(found))
            return found

        def release(self, path, fh):
            os.close(fh)
            return 0

        def statfs(self, path):
            found = os.statvfs(folder + path)
            return {
                key: getattr(found, key)
                for key in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files")
            }

    mfusepy.FUSE(
        Slow(), mount, foreground=True, ro=True, nothreads=False, attr_timeout=_KEPT, entry_timeout=_KEPT,
        negative_timeout=_KEPT, auto_cache=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Whether a folder can be written, and whether code that is written there can be run, found by doing it."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from pathlib import Path

from ._mounts import existing


def why_not_written(folder: Path) -> str | None:
    """Return why no file can be made in `folder` (or in its nearest parent that exists); None when one can."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder), prefix=".satenv-"):
            return None
    except OSError as error:
        return error.strerror or str(error)


def why_not_run(folder: Path) -> str | None:
    """Return why a library in `folder` (or in its nearest parent) can't be loaded; None when it can.

    A page is mapped as the loader maps a library's code: a file system mounted noexec refuses that, even to root.
    """
    if sys.platform != "linux":
        return None
    try:
        descriptor, name = tempfile.mkstemp(dir=existing(folder), prefix=".satenv-")
    except OSError as error:
        return error.strerror or str(error)
    try:
        os.truncate(descriptor, mmap.PAGESIZE)
        mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError as error:
        return f"{error.strerror}: mounted noexec?"
    finally:
        os.close(descriptor)
        os.unlink(name)
    return None

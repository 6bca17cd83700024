"""Folders that are made once and used often: complete or absent, by one process at a time, and checked at each start.

Clusters delete old files of scratch one by one: the mark `complete` lists how many entries each folder had, so that a
purge is noticed and the folder made again. Python's standard library only, as it loads before there is a tool.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

MARK = "complete"
PYTHON = "{}.{}".format(*sys.version_info)


def is_complete(folder: str | os.PathLike[str], kind: str = PYTHON) -> bool:
    """Tell whether `folder` was finished, for this `kind` of user (a Python), and has lost no file since."""
    root = os.fspath(folder)
    try:
        with open(os.path.join(root, MARK), encoding="utf-8", errors="surrogateescape") as stream:
            if stream.readline().rstrip("\n") != kind:
                return False
            for line in stream:
                count, _, name = line.rstrip("\n").partition(" ")
                if sum(map(_counts, os.listdir(os.path.join(root, name)))) < int(count):
                    return False
    except (OSError, ValueError):
        return False
    return True


def noexec(folder: str | os.PathLike[str]) -> bool:
    """Tell whether `folder` lies on a file system that starts no program and loads no library. Raises OSError."""
    return bool(os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0))


def write_mark(folder: str | os.PathLike[str], kind: str = PYTHON) -> None:
    """Mark `folder` as finished, with what is in it now. Raises OSError."""
    lines = [kind]
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(filter(_counts, folders))
        lines.append(f"{sum(map(_counts, [*folders, *files]))} {os.path.relpath(place, folder)}")
    with open(os.path.join(folder, MARK), "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write("".join(f"{line}\n" for line in lines))


def is_complete_venv(folder: str | os.PathLike[str]) -> bool:
    """Tell whether `folder` is complete for its own Python, which may be gone or have become another version."""
    import subprocess  # slow to load, and not needed where it is complete

    code = "import sys; print('{}.{}'.format(*sys.version_info))"
    command = [os.path.join(folder, "bin", "python"), "-I", "-S", "-c", code]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return False
    return run.returncode == 0 and is_complete(folder, run.stdout.strip())


def make_once(
    folder: str, make: Callable[[str], None], kind: str = PYTHON, found: Callable[[str], bool] | None = None
) -> None:
    """Have `make` fill a new folder that then takes the place of `folder`, unless `found` (is_complete) says so.

    The new folder is `NAME` in a scratch folder beside it, which is removed whatever happens; what killed runs have
    left there goes, too. Raises OSError, and what `make` raises.
    """
    found = found or (lambda folder: is_complete(folder, kind))
    if found(folder):
        with suppress(OSError):
            os.utime(folder)  # for cache prune: it is in use
        return
    parent, name = os.path.split(folder)
    os.makedirs(parent, exist_ok=True)
    with _alone(f"{folder}.lock") as alone:
        if found(folder):  # another process has made it meanwhile
            return
        for left in [n for n in os.listdir(parent) if n.startswith(f".{name}.")] if alone else []:
            shutil.rmtree(os.path.join(parent, left), ignore_errors=True)
        scratch = tempfile.mkdtemp(dir=parent, prefix=f".{name}.")
        try:
            made = os.path.join(scratch, name)
            os.mkdir(made)
            make(made)
            write_mark(made, kind)
            with suppress(FileNotFoundError):  # a process that still runs on it finds the new files in its place
                os.rename(folder, os.path.join(scratch, "old"))
            os.rename(made, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _counts(name: str) -> bool:
    return name not in ("__pycache__", MARK) and not name.endswith(".pyc")  # Python makes bytecode again


@contextmanager
def _alone(path: str) -> Iterator[bool]:
    """Hold the lock; yield False on a file system without locks, where the rename decides."""
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel drops it when its holder dies
            alone = True
        except OSError:
            alone = False
        yield alone

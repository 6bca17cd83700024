"""States of the machine in words: a full disk, a limit, memory, permissions, a folder that is gone."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
from collections.abc import Iterator

from cogvideo_sat_env.base.errors import SatenvError

_FREE = "free some space there, or choose another place (SATENV_CACHE, TMPDIR, -p)"
REMEDIES = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: f"your quota is used up (quota -s): {_FREE}",
    errno.EFBIG: "a limit on the size of files is in force: ulimit -f unlimited",
    errno.EMFILE: "a limit on open files is in force: ulimit -n 4096",
    errno.ENFILE: "the machine has too many open files: ask its administrator",
    errno.ENOMEM: "there is too little memory, or a limit on it (ulimit -v, a job's or container's memory)",
    errno.EAGAIN: "a limit on processes and threads is in force: ulimit -u; or there is too little memory",
    errno.EROFS: "the file system is mounted read-only: choose another place",
    errno.EACCES: "look at the permissions of it and of every folder above it: namei -l PATH",
    errno.EPERM: "look at the permissions of it and of every folder above it: namei -l PATH",
    errno.EIO: "the disk or the network file system fails: see dmesg, or ask the administrator",
    errno.ESTALE: "the network file system has lost it: try again, or mount it again",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "symbolic links lead in a circle: ls -l shows where",
    errno.ENOLCK: "the file system has no locks left: choose another place",
    errno.ENOEXEC: "the file is damaged or for another kind of machine",
    errno.ETXTBSY: "a program is being written that is running: try again",
    errno.ENOTCONN: "the network file system is gone: mount it again",
}
_ANYWHERE = {  # with a path these are states of it, without one they may be a fault of the program
    errno.ENOENT: "check that it exists, and that no other process removes it",
    errno.ENOTDIR: "a file is where a folder is expected",
    errno.EISDIR: "a folder is where a file is expected",
    errno.EEXIST: "remove it, or choose another place",
    errno.EBUSY: "it is in use or a mount point: choose another place",
    errno.ENOTEMPTY: "another process writes there: try again",
    errno.EXDEV: "two places that have to be on one file system aren't",
    errno.EINVAL: "the file system doesn't support what is needed: choose another place",
    errno.EOPNOTSUPP: "the file system doesn't support what is needed: choose another place",
    errno.ENODEV: "choose another place",
    errno.ENXIO: "choose another place",
}
_LIMITS = {errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}  # one thing helps, whatever was done
_LAST_WORDS = re.compile(r"memory allocation of \d+ bytes failed|MemoryError|[Cc]annot allocate memory|std::bad_alloc")
_SIGNALS = {  # what ends a process without a word
    signal.SIGKILL: REMEDIES[errno.ENOMEM],
    signal.SIGXFSZ: REMEDIES[errno.EFBIG],
    signal.SIGXCPU: "a limit on processor time is in force: ulimit -t unlimited",
}
_NARROW = (  # ulimit's letter, the limit, and below what a library fails at work that is ours
    ("f", resource.RLIMIT_FSIZE, 8 * 2**30),
    ("v", resource.RLIMIT_AS, 8 * 2**30),
    ("d", resource.RLIMIT_DATA, 8 * 2**30),
    ("n", resource.RLIMIT_NOFILE, 256),
)
_LOADER = re.compile(r"failed to map segment|[Cc]annot allocate memory|[Tt]oo many open files|[Ii]nput/output error")


def in_words(error: BaseException) -> SatenvError | None:
    """Return `error`, or what caused it, as an error of the machine; None for what is a fault of the program."""
    for link in _chain(error):
        found = _one(link)
        if found is not None:
            return found
    return None


def limit(error: BaseException) -> str | None:
    """Return what to do where a limit or too little memory is behind `error`, whatever it says itself; else None."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _LIMITS:
            return REMEDIES[link.errno]
        if isinstance(link, MemoryError):
            return REMEDIES[errno.ENOMEM]
        for number in _numbers(str(link)):
            if number in _LIMITS:
                return REMEDIES[number]
    return None


def of_a_death(returncode: int, output: str) -> SatenvError | None:
    """Return why a child process ended without an answer, where the machine is to blame; None for other reasons."""
    found = _LAST_WORDS.search(output)
    if found:
        return SatenvError(found[0], REMEDIES[errno.ENOMEM])
    remedy = _SIGNALS.get(-returncode)  # type: ignore[call-overload]
    if remedy:
        return SatenvError(f"ended by {signal.Signals(-returncode).name}", remedy)
    return _by_text(output)


def narrow_limits() -> str:
    """Return the limits under which a library can fail without a word of them, as `ulimit -f, -v`; "" for none."""
    found = [f"-{letter}" for letter, number, enough in _NARROW if 0 <= resource.getrlimit(number)[0] < enough]
    return f"ulimit {', '.join(found)}" if found else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _one(error: BaseException) -> SatenvError | None:
    if isinstance(error, SatenvError):
        return error
    if isinstance(error, MemoryError):
        return SatenvError("out of memory", REMEDIES[errno.ENOMEM])
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return SatenvError("no new thread can be started", REMEDIES[errno.EAGAIN])
    if isinstance(error, ImportError) and _LOADER.search(str(error)):
        return SatenvError(f"a library can't be loaded: {error}", "see ulimit -v, ulimit -n and the mount's noexec")
    if isinstance(error, UnicodeEncodeError) and any("\ud800" <= c <= "\udfff" for c in error.object):
        return SatenvError(
            f"{error.object}: a name that isn't UTF-8", "rename it, or choose another place; and export LC_ALL=C.UTF-8"
        )
    if not isinstance(error, OSError):
        return _by_text(str(error))
    where = " -> ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    )
    if isinstance(error, FileNotFoundError) and not os.path.isabs(where) and _no_cwd():
        return SatenvError("the working directory is gone", "cd into a folder that exists")
    number = error.errno or 0
    remedy = REMEDIES.get(number) or (_ANYWHERE.get(number) if where else None)
    if remedy is None:
        return _by_text(str(error))
    return SatenvError(f"{where}: {error.strerror}" if where else str(error.strerror), remedy)


def _by_text(text: str) -> SatenvError | None:
    """Return the state of the machine that a library's exception has only in its text, as Rust's and Python's have."""
    for number in _numbers(text):
        remedy = REMEDIES.get(number)
        if remedy is not None:
            return SatenvError(" ".join(text.split())[:1000], remedy)
    return None


def _numbers(text: str) -> list[int]:
    """Return the error numbers that stand in a text as Rust and Python write them."""
    return [int("".join(found)) for found in re.findall(r"\(os error (\d+)\)|\[Errno (\d+)\]", text)]


def _no_cwd() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False

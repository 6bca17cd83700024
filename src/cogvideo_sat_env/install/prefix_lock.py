"""One lock per prefix, so that two runs never work on the same prefix at once, on this host or another (NFS).

The lock is a file beside the prefix that comes into being by link(), which is atomic on NFS, too. It says who holds it;
its holder touches it every few seconds, and keeps it locked for the kernel (flock), which ends with the process.

A holder counts as dead only when that is proven: same host name and same start of the kernel, and either its process is
gone or, from another process namespace, the kernel's lock is free. A host of the same name with another start of the
kernel may be another host (cloned images); of such a holder nothing is known but its silence, and so its lock is only
ever taken when the user says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install import staging

HEARTBEAT = 15.0  # seconds between two signs of life
SILENT = 600.0  # seconds without one after which the lock of another host may be broken
_POLL = 0.2


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: enough to tell a process from a later one with the same number. `since` is UTC."""

    host: str
    pid: int
    started: str
    boot: str
    namespace: str
    since: str
    token: str
    flocked: bool = False  # whether the kernel keeps its lock file locked for it

    @classmethod
    def this_process(cls) -> Owner:
        """Return the owner that this process is."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()), *_kernel(), now, secrets.token_hex(8))

    def is_alive(self, path: Path) -> bool | None:
        """Tell whether the owner of the lock file at `path` lives, as far as this process can know; else None."""
        boot, namespace = _kernel()
        if self.host != socket.gethostname() or not boot or self.boot != boot:
            return None
        in_sight = self.namespace == namespace
        if in_sight and _started(self.pid) == self.started:
            return True
        held = _is_flocked(path) if self.flocked else None
        return held if held is not None or not in_sight else False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


def _kernel() -> tuple[str, str]:
    """Return the id of the kernel's last start and of the process namespace; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""


def _started(pid: int) -> str:
    """Return when the process started, in the kernel's ticks; "" when there is none, or no way to know."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if stat[0] in (b"Z", b"X") else stat[19].decode("ascii")  # fields 3 and 22 of proc(5); a zombie is dead


def lock_path(prefix: Path) -> Path:
    """Return the lock file of `prefix`: a sibling, there before the prefix is."""
    return staging.home(prefix) / f".{prefix.name}.lock"


@contextmanager
def prefix_lock(
    prefix: Path, progress: Progress, timeout: float | None = None, *, break_lock: bool = False
) -> Iterator[None]:
    """Hold the lock of `prefix`, waiting up to `timeout` seconds for another holder (None: as long as it lives).

    The lock of a process of this host that has ended is taken over. With `break_lock` so is that of another host that
    gave no sign of life for SILENT seconds.
    Raises PrefixError, naming host, process and time of the holder, when the wait is over or can't end, or the lock
    can't be made.
    """
    path = lock_path(prefix)
    try:
        me, descriptor = _acquire(prefix, path, Owner.this_process(), progress, timeout, break_lock)
    except OSError as error:
        if error.errno in diskspace.FULL:
            raise diskspace.full(prefix.parent, "the lock of the prefix") from error
        raise PrefixError(
            f"{path}: {error.strerror}; the lock of the prefix can't be made", "choose a prefix in a writable folder"
        ) from error
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(descriptor, ended), daemon=True)
    heart.start()
    try:
        _remove_leftovers(path)
        yield
    finally:
        ended.set()
        heart.join()
        if _read(path) == me:  # else it was broken, and is another's
            path.unlink()
        os.close(descriptor)


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            os.utime(descriptor)


def _acquire(
    prefix: Path, path: Path, me: Owner, progress: Progress, timeout: float | None, break_lock: bool
) -> tuple[Owner, int]:
    """Make the lock; return its owner and the open file. Raises PrefixError, OSError."""
    until = None if timeout is None else time.monotonic() + timeout
    announced = False
    heard = _Heard()
    while (mine := _try(path, me)) is None:
        holder = _read(path)
        if holder is None:  # just released
            time.sleep(_POLL / 4)
            continue
        alive = holder.is_alive(path)
        silent = _silence(path)
        if alive is False or (holder == _UNKNOWN and _is_left(path, silent)):
            _take_from(path, holder, progress)
            continue
        if alive is None and silent > SILENT and heard.nothing(path):
            if not break_lock:
                raise PrefixError(
                    f"{prefix}: locked by {holder}, who gave no sign of life for {silent / 60:.0f} minutes; whether it "
                    "still works there can't be known from here",
                    "if that process has ended, or that host was started anew, run it again with --break-lock",
                )
            _take_from(path, holder, progress)
            continue
        if not announced:
            progress.say(f"{prefix}: waiting for {holder}, who is at work on it")
            announced = True
        watching = 3 * HEARTBEAT if alive is None and silent > SILENT else 0
        if until is not None and time.monotonic() >= until + watching:
            raise PrefixError(
                f"{prefix}: still locked after {timeout:g} s by {holder}",
                f"wait for that run, or end it; the lock {path} is given back when the process ends",
            )
        time.sleep(_POLL)
    return mine


class _Heard:
    """Watches for signs of life by this host's own clock: the file system's may be another one than the holder's."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()

    def nothing(self, path: Path) -> bool:
        """Tell whether the lock stayed as it is for as long as a living holder would not let it."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        if self._seen != (found.st_ino, found.st_mtime_ns):
            self._seen, self._since = (found.st_ino, found.st_mtime_ns), time.monotonic()
        return time.monotonic() - self._since > 2 * HEARTBEAT


def _try(path: Path, me: Owner) -> tuple[Owner, int] | None:
    """Make the lock unless there is one. By link(): on NFS its answer may be lost, but the link count tells."""
    mine = path.with_name(f"{path.name}.{me.token}")
    descriptor = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    made = False
    try:
        owner = _sign(descriptor, me)
        try:
            with contextlib.suppress(OSError):
                os.link(mine, path)
            if mine.stat().st_nlink == 2:
                made = True
            elif not path.exists():
                os.link(mine, path)  # neither made nor there: let it say why
                made = True
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _try_without_links(path, me)
        return (owner, descriptor) if made else None
    finally:
        if not made:
            os.close(descriptor)
        mine.unlink(missing_ok=True)


def _sign(descriptor: int, me: Owner) -> Owner:
    """Lock the open file for the kernel where that can be, and write into it who holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        me = replace(me, flocked=True)
    except OSError:
        pass  # a file system without such locks: the process alone tells
    os.write(descriptor, (json.dumps(asdict(me)) + "\n").encode())
    return me


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without hard links


def _try_without_links(path: Path, me: Owner) -> tuple[Owner, int] | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    try:
        return _sign(descriptor, me), descriptor
    except OSError:
        path.unlink()
        os.close(descriptor)
        raise


def _is_flocked(path: Path) -> bool | None:
    """Tell whether a process keeps the lock file locked for the kernel; None where that can't be known."""
    with _flocked(path) as mine:
        return None if mine is None else not mine


@contextmanager
def _flocked(path: Path) -> Iterator[bool | None]:
    """Lock the file at `path` for the kernel; yield whether it could be, None where such locks aren't to be had."""
    descriptor = -1
    try:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except PermissionError:  # another user's
            descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine: bool | None = True
    except BlockingIOError:
        mine = False
    except OSError:
        mine = None
    try:
        yield mine
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _UNKNOWN if path.exists() else None  # of another program or an older version


_UNKNOWN = Owner("an unknown host", 0, "", "", "", "an unknown time", "")


def _is_left(path: Path, silent: float) -> bool:
    """Whether the file is an empty one that satenv 0.1 left beside every prefix, or one whose writer died at once."""
    try:
        return path.stat().st_size == 0 and silent > HEARTBEAT
    except FileNotFoundError:
        return False


def _silence(path: Path) -> float:
    """Return the seconds since the holder's last sign of life, by the clock of the file system."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _take_from(path: Path, holder: Owner, progress: Progress) -> None:
    """Remove the lock of `holder`, unless another takes it at this moment or has taken it."""
    with _flocked(path) as mine:  # of two that take, one has this; the other finds a new lock or none
        if (mine is not False or holder.is_alive(path) is None) and _read(path) == holder:
            progress.say(f"{path}: its holder, {holder}, has ended; the lock is taken over")
            path.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what runs that were killed while they took or asked for the lock have left beside it."""
    now = path.stat().st_mtime  # by the clock of the file system
    for left in path.parent.iterdir():
        if left.name.startswith(f"{path.name}."):
            with contextlib.suppress(OSError):
                if now - left.stat().st_mtime > HEARTBEAT:
                    left.unlink()

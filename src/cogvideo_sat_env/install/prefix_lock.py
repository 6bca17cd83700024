"""One lock per prefix, so that two runs never work on the same prefix at once, on this host or another (NFS).

The lock is a file beside the prefix that comes into being by link(), which is atomic on NFS, too; kernel locks aren't
passed on by every mount. It says who holds it, and its holder touches it every few seconds. A dead holder on this host
is known by its process; of one on another host nothing is known but its silence, and so its lock is only ever taken
when the user says so.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.progress import Progress

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

    @classmethod
    def this_process(cls) -> Owner:
        """Return the owner that this process is."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _started(os.getpid()), *_kernel(), now, secrets.token_hex(8))

    def is_dead(self) -> bool:
        """Whether this process can tell that the owner has ended: it was on this host, in sight, and is gone."""
        boot, namespace = _kernel()
        if self.host != socket.gethostname() or not boot:
            return False
        if self.boot != boot:
            return True  # the host was started anew since
        return self.namespace == namespace and _started(self.pid) != self.started

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
    return prefix.with_name(f".{prefix.name}.lock")


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
    me = Owner.this_process()
    try:
        _acquire(prefix, path, me, progress, timeout, break_lock)
    except OSError as error:
        if error.errno in diskspace.FULL:
            raise diskspace.full(prefix.parent, "the lock of the prefix") from error
        raise PrefixError(
            f"{path}: {error.strerror}; the lock of the prefix can't be made", "choose a prefix in a writable folder"
        ) from error
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        if _read(path) == me:  # else it was broken, and is another's
            path.unlink()


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            os.utime(path)


def _acquire(prefix: Path, path: Path, me: Owner, progress: Progress, timeout: float | None, break_lock: bool) -> None:
    until = None if timeout is None else time.monotonic() + timeout
    told = False
    while not _try(path, me):
        holder = _read(path)
        if holder is None:  # just released
            time.sleep(_POLL / 4)
            continue
        silent = _silence(path)
        if holder.is_dead() or (break_lock and silent > SILENT) or (holder == _UNKNOWN and _is_left(path, silent)):
            _take_from(path, holder, progress)
            continue
        if silent > SILENT:
            raise PrefixError(
                f"{prefix}: locked by {holder}, who gave no sign of life for {silent / 60:.0f} minutes; whether it "
                "still works there can't be told from here",
                "if that process has ended, run it again with --break-lock",
            )
        if not told:
            progress.say(f"{prefix}: waiting for {holder}, who is at work on it")
            told = True
        if until is not None and time.monotonic() >= until:
            raise PrefixError(
                f"{prefix}: still locked after {timeout:g} s by {holder}",
                f"wait for that run, or end it; the lock {path} is given back when the process ends",
            )
        time.sleep(_POLL)


def _try(path: Path, me: Owner) -> bool:
    """Make the lock unless there is one. By link(): on NFS its answer may be lost, but the link count tells."""
    mine = path.with_name(f"{path.name}.{me.token}")
    try:
        mine.write_text(json.dumps(asdict(me)) + "\n", encoding="utf-8")
        try:
            with contextlib.suppress(OSError):
                os.link(mine, path)
            if mine.stat().st_nlink == 2:
                return True
            if path.exists():
                return False
            os.link(mine, path)  # neither made nor there: let it say why
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _try_without_links(path, me)
    finally:
        mine.unlink(missing_ok=True)


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without hard links


def _try_without_links(path: Path, me: Owner) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(me)) + "\n")
    return True


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _unknown(path)


_UNKNOWN = Owner("an unknown host", 0, "", "", "", "an unknown time", "")


def _unknown(path: Path) -> Owner | None:
    """Return an owner nobody knows for a lock file of another program or an older version, None for no file."""
    return _UNKNOWN if path.exists() else None


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
    """Remove the lock of `holder`, unless another has taken it meanwhile."""
    with FileLock(path.with_name(f"{path.name}.guard")):
        if _read(path) == holder:
            progress.say(f"{path}: its holder, {holder}, has ended; the lock is taken over")
            path.unlink(missing_ok=True)

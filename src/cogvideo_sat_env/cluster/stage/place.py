"""The node's own folder that an image is for: whom it belongs to, who is at work in it, what is there, who uses it.

AT/NAME             the environment: a mount, an unpacked copy, or a link to the shared release
AT/.NAME.sqfs       the node's copy of the image, where it is mounted from
AT/.NAME.json       how it was made, of which image; written last
AT/.NAME.users/ID   the jobs that use it
AT/.NAME.lock       held by the process that is at work
AT/.NAME.*.partial  what a killed process left
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.cluster.image_facts import ImageFacts
from cogvideo_sat_env.cluster.stage import mounts

PATIENCE = 1800.0  # seconds that one process may take on a node while the others wait
RECEIPT = "etc/cogvideo-sat-env/receipt.json"
_PAUSE = 0.2
_ASKING = 20.0  # seconds for Slurm's controller


class Place:
    """The node-local place of one environment."""

    def __init__(self, facts: ImageFacts) -> None:
        self.facts = facts
        self.prefix = Path(facts.prefix)
        self.at = self.prefix.parent
        hidden = f".{self.prefix.name}"
        self.copy = self.at / f"{hidden}.sqfs"
        self.state = self.at / f"{hidden}.json"
        self.users = self.at / f"{hidden}.users"
        self.lock = self.at / f"{hidden}.lock"
        self.partial = self.at / f"{hidden}.{os.getpid()}.partial"

    def make(self) -> None:
        """Make the folder. Raises PrefixError where it can't be, or where another user could change what is in it."""
        try:
            self.at.mkdir(mode=0o755, parents=True, exist_ok=True)
            found = os.lstat(self.at)
        except OSError as error:
            raise PrefixError(f"{self.at}: {error.strerror}; no folder of the node's own there", _OTHER) from error
        if not stat.S_ISDIR(found.st_mode):
            raise PrefixError(f"{self.at}: not a folder", _OTHER)
        if found.st_uid not in (0, os.geteuid()):
            raise PrefixError(f"{self.at}: belongs to another user (uid {found.st_uid})", _OTHER)
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PrefixError(f"{self.at}: others can write to it (mode {stat.S_IMODE(found.st_mode):o})", _OTHER)
        above = os.stat(self.at.parent)
        if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            raise PrefixError(f"{self.at.parent}: everybody can rename what is in it (no sticky bit)", _OTHER)

    @property
    def mine(self) -> bool:
        """Whether this process may change it."""
        return os.access(self.at, os.W_OK)

    def there(self) -> str:
        """Return how the environment is there now (loop, fuse, copy), "" where it isn't, or is of another image."""
        try:
            state = json.loads(self.state.read_text("utf-8"))
            if state["sha256"] != self.facts.sha256 or os.path.islink(self.prefix):
                return ""
            how = str(state["how"])
            if how in (mounts.LOOP, mounts.FUSE) and mounts.mounted(self.prefix) is None:
                return ""
            return how if self.holds(self.prefix) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def holds(self, prefix: Path) -> bool:
        """Whether the environment of the image is at `prefix`: a mount whose server died isn't."""
        try:
            found = json.loads((prefix / RECEIPT).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and found.get("fingerprint") == self.facts.fingerprint

    def write_state(self, how: str) -> None:
        """Say how it was made. Raises OSError."""
        text = json.dumps({"how": how, "sha256": self.facts.sha256, "image_bytes": self.facts.size})
        self.partial.write_text(text + "\n", encoding="utf-8")
        os.replace(self.partial, self.state)

    @contextmanager
    def locked(self, say: Any) -> Iterator[None]:
        """Hold the lock of this node in the block. Raises PrefixError when another process holds it for too long."""
        until = time.monotonic() + PATIENCE
        waited = False
        while True:
            self.at.mkdir(mode=0o755, exist_ok=True)  # `tidy` of the process before may have removed it
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if _try_lock(descriptor) and _is_at(descriptor, self.lock):
                    yield
                    return
            finally:
                os.close(descriptor)
            if time.monotonic() > until:
                raise PrefixError(
                    f"{self.lock}: another process has held it for {PATIENCE:.0f} s",
                    f"see what it does: fuser -v {self.lock}",
                )
            if not waited:
                say(f"{self.prefix}: another process of this node is at work on it; waiting")
                waited = True
            time.sleep(_PAUSE)

    def tidy(self) -> None:
        """Remove the folder where nothing is in it but the lock, which this process holds."""
        if any(path != self.lock for path in self.at.iterdir()):
            return
        self.lock.unlink(missing_ok=True)
        with suppress(OSError):  # another process has just come
            self.at.rmdir()

    def join(self) -> None:
        """Note that this job uses it. Raises OSError."""
        self.users.mkdir(mode=0o755, exist_ok=True)
        (self.users / user_id()).touch()

    def is_user(self) -> bool:
        """Whether this job uses it."""
        return (self.users / user_id()).exists()

    def leave(self) -> list[str]:
        """This job doesn't use it any more; return who else does."""
        (self.users / user_id()).unlink(missing_ok=True)
        return self.others()

    def others(self) -> list[str]:
        """Return the jobs that use it, besides this one."""
        try:
            return sorted(path.name for path in self.users.iterdir() if path.name != user_id())
        except OSError:
            return []

    def clear(self) -> None:
        """Remove everything of it, after an interrupted run, too.

        Raises PrefixError for a mount that is in use, and for a folder that isn't ours.
        """
        self._require_ours()
        while mounts.mounted(self.prefix):
            why = mounts.unmount(self.prefix)
            if why:
                raise PrefixError(
                    f"{self.prefix}: can't be unmounted: {why}", "end what uses it: fuser -vm " + str(self.prefix)
                )
        if self.prefix.is_dir() and not self.prefix.is_symlink():
            os.replace(self.prefix, self.partial)  # half a folder is never taken for a whole one
        self.state.unlink(missing_ok=True)
        hidden = f".{self.prefix.name}."
        left = [p for p in self.at.iterdir() if p.name.startswith(hidden) and p.name.endswith(".partial")]
        for path in [self.prefix, self.copy, *left]:
            remove(path)

    def _require_ours(self) -> None:
        if not self.prefix.is_dir() or self.prefix.is_symlink() or self.state.exists() or self.holds(self.prefix):
            return
        if mounts.mounted(self.prefix) is None and any(self.prefix.iterdir()):
            raise PrefixError(f"{self.prefix}: holds something else; it is left alone", "move it away")


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing there is fine. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)  # an unpacked folder may be read-only
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one that others would lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def user_id() -> str:
    """Return what this job is called among those that use an environment on a node."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return f"job-{job}" if job.isalnum() else f"uid-{os.getuid()}"


def job_ended(name: str) -> bool:
    """Whether `name`, of a user of an environment, is a job that Slurm doesn't have any more: it was killed, say."""
    kind, _, number = name.partition("-")
    program = shutil.which("squeue")
    if kind != "job" or program is None:
        return False
    command = [program, "--noheader", "--states", "all", "--jobs", number, "--format", "%T"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ASKING)
    except (OSError, subprocess.TimeoutExpired):
        return False
    if asked.returncode:
        return "Invalid job id" in asked.stderr
    return not {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED"} & set(asked.stdout.split())


_OTHER = "tell who deployed it: the image has to be for a folder that every user of a node can make"

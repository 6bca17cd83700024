"""The lock between real hosts, as far as one machine can be several: own name, network, processes and kernel start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.install import prefix_lock as locking
from cogvideo_sat_env.install.prefix_lock import lock_path, prefix_lock
from install.conftest import Recorder

SRC = Path(__file__).resolve().parents[2] / "src"
HOLD = f"""
import signal, sys; sys.path.insert(0, {str(SRC)!r})
from pathlib import Path
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.install.prefix_lock import prefix_lock
with prefix_lock(Path(sys.argv[1]), Silent()):
    print("held", flush=True)
    signal.pause()
"""
BOOT = "/proc/sys/kernel/random/boot_id"


class Host:
    """Another host that holds the lock of a prefix."""

    def __init__(self, prefix: Path, name: str, boot: Path | None) -> None:
        mounted = f"mount --bind {boot} {BOOT} && " if boot else ""
        script = f'hostname {name} && {mounted}exec "$@"'
        self.process = subprocess.Popen(
            ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child",
             "sh", "-c", script, "sh", sys.executable, "-c", HOLD, str(prefix)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self.process.stdout.readline() != "held\n":
            pytest.skip(f"no second host can be made here: {self.process.communicate()[1].strip()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("another host needs root and unshare")
    monkeypatch.setattr(locking, "HEARTBEAT", 0.2)
    monkeypatch.setattr(locking, "SILENT", 60.0)
    yield tmp_path / "env"


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A file with another start of the kernel."""
    path = tmp_path / "boot"
    path.write_text("00000000-1111-2222-3333-444444444444\n")
    return path


def taken(prefix: Path, **options: bool) -> str:
    """Take the lock for a moment; return what was in the way."""
    try:
        with prefix_lock(prefix, Recorder(), 0.3, **options):
            return ""
    except PrefixError as error:
        return f"{error.message} {error.remedy}"


@pytest.mark.slow
@pytest.mark.fault("lock-cloned-host", "error", "waits as for any other host; it is taken only with --break-lock")
@pytest.mark.parametrize("name", [socket.gethostname(), "node17"])
def test_a_host_with_another_start_of_the_kernel_is_never_robbed(prefix: Path, boot: Path, name: str) -> None:
    host = Host(prefix, name, boot)
    try:
        assert f"on {name}" in taken(prefix)
        os.utime(lock_path(prefix))
        assert f"still locked after 0.3 s by process 1 on {name}" in taken(prefix, break_lock=True)
    finally:
        host.kill()
    assert lock_path(prefix).exists()
    os.utime(lock_path(prefix), (1, 1))
    assert "gave no sign of life" in (why := taken(prefix)) and "--break-lock" in why
    assert taken(prefix, break_lock=True) == "" and list(prefix.parent.iterdir()) == [boot]


@pytest.mark.fault("lock-other-namespace", "environment", "a living one is waited for, a dead one's lock is taken over")
def test_a_container_of_this_host_is_known_by_the_kernels_lock(prefix: Path) -> None:
    host = Host(prefix, socket.gethostname(), None)
    try:
        os.utime(lock_path(prefix), (1, 1))  # silent, and living all the same
        assert "still locked after 0.3 s by process 1" in taken(prefix, break_lock=True)
    finally:
        host.kill()
    assert taken(prefix) == "" and not lock_path(prefix).exists()

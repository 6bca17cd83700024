"""A real Slurm of two nodes, n1 and n2, on this machine's loopback: munge, controller and two node daemons of our own.

A requeued job waits for the life of a step's credential before it starts again: cred_expire, 120 s unless set; and then
until the scheduler looks again, which is every 30 to 60 s unless set.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "salloc", "scontrol")
CONF = """
ClusterName=satenv
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/controller.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=5
JobRequeue=1
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=1000
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
_OWN = 'mount -t tmpfs -o mode=1777 node "$1"; shift; exec "$@"'


@contextmanager
def two_nodes(own: Path | None = None) -> Iterator[dict[str, str]]:
    """Start the cluster; yield the variables with which Slurm's commands find it. Skips where it can't be started.

    At the folder `own` each node has a disk of its own, as real nodes have in /tmp.
    """
    missing = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
    if missing:
        pytest.skip(f"no {missing[0]} on this machine (Debian: apt install slurm-wlm munge)")
    if os.getuid() != 0:
        pytest.skip("Slurm's node daemons have to be started by root")
    folder = Path(tempfile.mkdtemp(prefix="satenv-slurm-"))
    folder.chmod(0o755)
    running: list[subprocess.Popen[bytes]] = []
    try:
        _munge(folder, running)
        ports = dict(zip(("controller", "n1", "n2"), _free_ports(3), strict=True))
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], folder=folder, **ports))
        for name in ("state", "spool-n1", "spool-n2"):
            (folder / name).mkdir()
        env = {**os.environ, "PATH": _path(), "SLURM_CONF": str(conf)}
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            log = (folder / f"{command[0]}-{command[-1]}.log").open("wb")
            apart = ["unshare", "-m", "sh", "-ec", _OWN, "sh", str(own)] if own and command[0] == "slurmd" else []
            running.append(
                subprocess.Popen(
                    [*apart, *command, "-f", str(conf)], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                )
            )
        _wait_until_idle(folder, env)
        yield env
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _munge(folder: Path, running: list[subprocess.Popen[bytes]]) -> None:
    place = folder / "munge"
    place.mkdir(mode=0o755)
    (place / "key").write_bytes(os.urandom(128))
    (place / "key").chmod(0o400)
    user = pwd.getpwnam("munge") if _has_user("munge") else pwd.getpwuid(0)
    for path in (place, place / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    command = ["munged", "--foreground", *(f"--{name}={place / file}" for name, file in options.items())]
    running.append(
        subprocess.Popen(
            command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], env={**os.environ, "PATH": _path()},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(folder / "munged.err").open("wb"),
        )
    )  # fmt: skip
    for _ in range(100):
        if (place / "socket").exists():
            return
        time.sleep(0.1)
    pytest.skip(f"munged doesn't start here: {(folder / 'munged.err').read_text().strip()[-300:]}")


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_until_idle(folder: Path, env: dict[str, str]) -> None:
    states = ""
    for _ in range(150):
        listed = subprocess.run(["sinfo", "-hN", "-o", "%N %T"], env=env, capture_output=True, text=True, check=False)
        states = listed.stdout + listed.stderr
        if listed.stdout.count(" idle\n") == 2:
            return
        time.sleep(0.2)
    logs = "".join(f"\n{path.name}: {path.read_text(errors='replace')[-500:]}" for path in folder.glob("*.log"))
    pytest.fail(f"Slurm's nodes don't come up: {states}{logs}")

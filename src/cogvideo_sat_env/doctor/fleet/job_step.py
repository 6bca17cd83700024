"""Which process of a job of several this one is, from the variables of torchrun or of Slurm's srun."""

from __future__ import annotations

import platform
import re
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.children import run_child

_SCONTROL = 10.0  # seconds for an answer of Slurm's controller
KEY, PORT = "SATENV_FLEET_KEY", "SATENV_FLEET_PORT"


@dataclass(frozen=True)
class Step:
    """This rank's place in the job, and where rank 0 listens.

    address    rank 0's host, as it is called
    otherwise  where else it may be, when that name leads nowhere: addresses that Slurm knows
    key  what all ranks of one run know; keeps runs apart. A secret only when this program started the ranks itself.
    """

    rank: int
    ranks: int
    local_rank: int
    host: str
    address: str
    port: int
    key: bytes
    otherwise: tuple[str, ...] = ()


def find(environ: Mapping[str, str]) -> Step | None:
    """Return the step that this process belongs to, or None when it is alone. Raises InputError for half a step."""
    if environ.get("RANK") and environ.get("WORLD_SIZE"):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        run = f"torchrun {environ.get('TORCHELASTIC_RUN_ID')} {environ.get('MASTER_PORT')}"
        address = environ.get("MASTER_ADDR")
    elif environ.get("SLURM_STEP_NUM_TASKS"):  # set in steps of srun, not in the batch script itself
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        run = f"slurm {environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID')}"
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
        address = environ.get("MASTER_ADDR") or first_host(nodes)
    else:
        return None
    rank, ranks, local = (_number(environ, name) for name in names)
    if ranks == 1:
        return None
    if rank >= ranks:
        raise InputError(
            f"{names[0]}={rank} and {names[1]}={ranks}; expected a rank below that",
            "start the ranks with srun or torchrun",
        )
    if not address:
        raise InputError(
            f"rank {rank} of {ranks}: nothing says where rank 0 is; expected MASTER_ADDR or Slurm's list of nodes",
            "export MASTER_ADDR with the name of the first node",
        )
    port = _number(environ, PORT) if environ.get(PORT) else 20000 + zlib.crc32(run.encode()) % 20000
    host = environ.get("SLURMD_NODENAME") or platform.node()
    own = rank == 0 or bool(environ.get("MASTER_ADDR"))  # a name that the user gives is what a job will take
    otherwise = () if own or resolves(address) else addresses(address, environ)
    return Step(rank, ranks, local, host, address, port, (environ.get(KEY) or run).encode(), otherwise)


def resolves(name: str) -> bool:
    """Return whether a host's name leads to an address."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def addresses(node: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the addresses under which Slurm knows a node, then that of the node where srun was started.

    The latter is rank 0's in a batch job: its script runs on the first node.
    """
    found = []
    for question, answer in (
        (["getaddrs", node], rf"^{re.escape(node)}: (\[?[\w.:]+?\]?)(?::\d+)?$"),
        (["show", "node", node], r"\bNodeAddr=(\S+)"),
    ):
        done = run_child(["scontrol", *question], _SCONTROL, environ)
        found += [match.strip("[]") for match in re.findall(answer, done.stdout, re.MULTILINE)]
    if environ.get("SLURM_LAUNCH_NODE_IPADDR"):
        found.append(environ["SLURM_LAUNCH_NODE_IPADDR"])
    return tuple(address for address in dict.fromkeys(found) if address != node and resolves(address))


def first_host(nodes: str) -> str | None:
    """Return the first host of a list as Slurm writes it: "node[03-05,9],login" is node03; None for an empty one."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part for part in found.groups() if part) if found else None


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    if not value.isdigit():
        raise InputError(f"{name}={value!r}; expected a number", "start the ranks with srun or torchrun")
    return int(value)

"""Which jobs and processes use which release, as far as it can be known.

Slurm doesn't tell the variables of a job. What is looked at: each job's script, working folder, command and comment
(a release that they name, or `current`, which stands for every release that was current since the job began); leases,
the files that modules and load.sh leave in ROOT/leases where jobs may write there; and the processes of this host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cogvideo_sat_env.cluster import root as roots
from cogvideo_sat_env.cluster.image_facts import ENDING
from cogvideo_sat_env.cluster.root import MODULE, Root

COMMENT = "cogvideo-sat-env release "  # in a job's comment, before the name of the release that it uses
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
_OVER = (
    "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "REVOKED",
)  # fmt: skip
_LIMIT = 30.0  # seconds for one question to Slurm
_PATIENCE = 60.0  # seconds for the scripts of all jobs
_BETWEEN = "\x1f"


@dataclass
class Usage:
    """What uses which release.

    uses     release -> who, in words
    notes    what can't be known here
    unknown  Slurm is there and doesn't answer: nobody's jobs are known
    ended    leases whose jobs have ended
    """

    uses: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unknown: bool = False
    ended: list[Path] = field(default_factory=list)

    def add(self, releases: Iterable[str], who: str) -> None:
        """Note that `who` uses `releases`."""
        for name in sorted(releases):
            self.uses.setdefault(name, []).append(who)


@dataclass(frozen=True)
class _Job:
    number: str
    user: str
    state: str
    started: float
    words: str


def find(root: Root) -> Usage:
    """Return who uses the releases of `root`. Raises the errors of reading ROOT."""
    usage = Usage()
    jobs = _jobs(usage)
    scripts = _scripts(jobs or (), usage)
    for job in jobs or ():
        named, current = _named(root, f"{job.words}\n{scripts.get(job.number, '')}")
        if current and job.state not in _WAITING:
            named |= roots.since(root, job.started)
        usage.add(named, f"job {job.number} of {job.user} ({job.state.lower()})")
    _leases(root, jobs, usage)
    _processes(root, usage)
    return usage


def _jobs(usage: Usage) -> list[_Job] | None:
    """Return the jobs in the queue; None where Slurm isn't there or doesn't answer."""
    if shutil.which("squeue") is None:
        usage.notes.append("there is no Slurm on this machine: which jobs use a release isn't known here")
        return None
    layout = _BETWEEN.join(("%A", "%u", "%T", "%S", "%Z", "%o", "%k"))
    listed = _ask(["squeue", "--noheader", "--all", "--states=all", "--format", layout])
    if isinstance(listed, str):
        usage.unknown = True
        usage.notes.append(f"Slurm doesn't say which jobs there are: {listed}")
        return None
    jobs = []
    for line in listed.stdout.splitlines():
        parts = line.split(_BETWEEN)
        if len(parts) != 7 or parts[2] in _OVER:  # what has ended stays listed for some minutes
            continue
        jobs.append(_Job(parts[0], parts[1], parts[2], _seconds(parts[3]), "\n".join(parts[4:])))
    return jobs


def _seconds(text: str) -> float:
    """Return the time of Slurm's words, in this host's time zone as squeue has it; 0 for none."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0


def _scripts(jobs: Iterable[_Job], usage: Usage) -> dict[str, str]:
    """Return the scripts of jobs, by number, as far as Slurm shows them to this user."""
    found: dict[str, str] = {}
    hidden, until = 0, time.monotonic() + _PATIENCE
    for job in jobs:
        if time.monotonic() > until:
            hidden += 1
            continue
        shown = _ask(["scontrol", "write", "batch_script", job.number, "-"])
        if isinstance(shown, str):
            hidden += "permission" in shown.lower() or "denied" in shown.lower()  # others are interactive: no script
        else:
            found[job.number] = shown.stdout
    if hidden:
        usage.notes.append(
            f"jobs whose scripts couldn't be read, which Slurm shows to their owners and its operators: {hidden}"
        )
    return found


def _ask(command: list[str]) -> subprocess.CompletedProcess[str] | str:
    """Return what a command of Slurm's says, or why it doesn't."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False,
            stdin=subprocess.DEVNULL, env={name: text for name, text in os.environ.items()
                                           if not name.startswith(("SQUEUE_", "SLURM_TIME_FORMAT"))},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer within {_LIMIT:.0f} s"
    except OSError as error:
        return str(error.strerror)
    return (done.stderr.strip().splitlines() or ["failed"])[-1] if done.returncode else done


def _named(root: Root, text: str) -> tuple[set[str], bool]:
    """Return the releases that a job's words name, and whether they name what is current."""
    places = "|".join(re.escape(place) for place in {str(root.path), os.path.realpath(root.path)})
    there = set(root.names())
    named = {found[1] for found in re.finditer(rf"(?:{places})/releases/([^/\s\"']+)", text)}
    modules = "\n".join(line for line in text.splitlines() if re.search(r"\b(?:module|ml)\b", line))
    named |= {found[1] for found in re.finditer(rf"\b{MODULE}/([0-9][^/\s\"';&|]*)", modules)}
    named |= {found[1] for found in re.finditer(rf"{COMMENT}(\S+)", text)}
    named |= {found[1] for found in re.finditer(rf"(?:{places})/images/(\S+?)\{ENDING}", text)}
    current = re.search(rf"(?:{places})(?:/(?:current|load\.sh|stage)\b|/?(?=[\s\"')]|$))", text)
    current = current or re.search(rf"\b{MODULE}(?:/current)?(?![\w/.-])", modules)
    return named & there, current is not None


def _leases(root: Root, jobs: Iterable[_Job] | None, usage: Usage) -> None:
    alive = None if jobs is None else {job.number: job for job in jobs}
    try:
        leases = sorted(path for path in root.leases.iterdir() if "@" in path.name)
    except OSError:
        return
    for path in leases:
        release, _, number = path.name.partition("@")
        job = (alive or {}).get(number)
        if job is not None:
            usage.add([release], f"job {number} of {job.user} ({job.state.lower()}), which has loaded it")
        elif alive is None:
            usage.add([release], f"job {number}, which has loaded it; whether it has ended isn't known here")
        else:
            usage.ended.append(path)


def _processes(root: Root, usage: Usage) -> None:
    """Add the processes of this host that have files of a release open or mapped, or were started with it active."""
    places = {re.escape(os.fsencode(place)) for place in (str(root.releases), os.path.realpath(root.releases))}
    inside = re.compile(b"(?:" + b"|".join(places) + rb")/([^/\s\0:]+)")
    there, hidden = set(root.names()), 0
    own = {os.getpid(), os.getppid()}
    for entry in Path("/proc").glob("[0-9]*") if os.path.isdir("/proc") else ():
        if int(entry.name) in own:
            continue
        try:
            text = b"\n".join([os.fsencode(os.readlink(entry / "cwd")), (entry / "maps").read_bytes(),
                               *_activated((entry / "environ").read_bytes())])  # fmt: skip
        except PermissionError:
            hidden += 1
            continue
        except OSError:  # it has just ended, or is the kernel's
            continue
        named = {os.fsdecode(found) for found in inside.findall(text)} & there
        usage.add(named, f"process {entry.name} on this host")
    if hidden:
        usage.notes.append(f"processes of other users on this host that couldn't be looked into: {hidden}")


def _activated(environ: bytes) -> Iterable[bytes]:
    return [entry for entry in environ.split(b"\0") if entry.startswith((b"CONDA_PREFIX=", b"_COGVIDEO_SAT_PREFIX="))]

"""All nodes of a Slurm job: the image is read from the shared file system once, and sbcast takes it to every node."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import MissingToolError, SatenvError
from cogvideo_sat_env.cluster.stage.place import Place
from cogvideo_sat_env.cluster.stage.stage import SHARED, Release, Say, Staged

PATIENCE = 1800.0  # seconds: for sbcast, and then for all nodes to answer
OWN_NODE = "--here"


@dataclass(frozen=True)
class Allocation:
    """The job that this process stands outside of the steps of: its id and its nodes' number."""

    job: str
    nodes: int


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """Return the job whose nodes this process is to serve: it is its batch script, or a shell of salloc.

    None outside of a job, inside a step (every rank then serves its own node), in a prolog, and in the batch script of
    a job of one node.
    """
    job, nodes = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_JOB_NUM_NODES", "")
    if not job or not nodes.isdigit() or environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_SCRIPT_CONTEXT"):
        return None
    if nodes == "1" and environ.get("SLURMD_NODENAME"):
        return None
    return Allocation(job, int(nodes))


def stage_all(
    release: Release, job: Allocation, command: Sequence[str], arguments: Sequence[str], say: Say
) -> tuple[Staged, list[dict[str, Any]]]:
    """Have every node of the job stage; return what the whole job uses, and each node's answer.

    `command` starts this program on a node, `arguments` are the user's. Raises SatenvError when a node has nothing.
    """
    copied = _broadcast(release, job, say)
    handed = [*arguments, OWN_NODE, "--json", "--hold", *(["--copied", str(copied)] if copied else [])]
    child = _start(job, [*command, *handed])
    answers = _answers(child, job.nodes)
    failed = [f"{one.get('node')}: {one['error']}" for one in answers if "error" in one]
    if len(answers) < job.nodes:
        failed.append(f"{job.nodes - len(answers)} of {job.nodes} nodes gave no answer")
    if failed:
        child.terminate()
        raise SatenvError(
            f"the environment can't be had on all nodes of job {job.job}: {'; '.join(failed[:5])}",
            "look at the words of each node above",
        )
    found = [Staged(Path(one["prefix"]), one["how"], str(release.image or ""), one["why"]) for one in answers]
    if len({one.prefix for one in found}) == 1:
        ways = sorted({one.how for one in found})
        return Staged(found[0].prefix, "+".join(ways), found[0].image, [w for one in found for w in one.why]), answers
    if release.folder is None:
        raise SatenvError(
            f"the nodes of job {job.job} have the environment at different paths, and there is no shared folder",
            "free the image's path on all of them",
        )
    say(f"not all nodes have it at {release.facts.prefix if release.facts else ''}; all use {release.folder}")
    return Staged(release.folder, SHARED, str(release.image or ""), [w for one in found for w in one.why]), answers


def release_all(job: Allocation, command: Sequence[str], arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Have every node of the job undo it; return their answers. Raises SatenvError where one can't."""
    child = _start(job, [*command, *arguments, OWN_NODE, "--json"])
    answers = _answers(child, job.nodes)
    child.wait()
    failed = [f"{one.get('node')}: {one['error']}" for one in answers if "error" in one]
    if failed or len(answers) < job.nodes:
        raise SatenvError(
            f"not all nodes could undo it: {'; '.join(failed) or 'some gave no answer'}", "run it again there"
        )
    return answers


def _broadcast(release: Release, job: Allocation, say: Say) -> Path | None:
    """Send the image to all nodes, read once; return where it is on each, None where they have to read it."""
    if release.image is None or release.facts is None:
        return None
    place = Place(release.facts)
    if os.environ.get("SLURMD_NODENAME") and place.there():
        return None  # by the prolog or an earlier job: on the other nodes, too, most likely
    program = shutil.which("sbcast")
    if program is None:
        say("no sbcast on PATH: every node reads the image from the shared file system")
        return None
    target = place.at.parent / f".{place.prefix.name}.{job.job}.{secrets.token_hex(8)}.sqfs"
    try:
        done = subprocess.run(
            [program, "--force", str(release.image), str(target)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, check=False, timeout=PATIENCE,
        )  # fmt: skip
        words = " ".join(done.stderr.decode(errors="replace").split())[-300:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        words = f"no end in {PATIENCE:.0f} s"
    if words:
        say(f"sbcast: {words}; every node reads the image from the shared file system")
    return target  # of a broadcast that failed, too: a node takes what is whole, and removes what isn't


def _start(job: Allocation, command: Sequence[str]) -> subprocess.Popen[str]:
    program = shutil.which("srun")
    if program is None:
        raise MissingToolError("no srun on PATH", "load Slurm's module, or stage each node by itself with --here")
    count = str(job.nodes)
    return subprocess.Popen(
        [program, "--overlap", "--nodes", count, "--ntasks", count, "--ntasks-per-node", "1", "--kill-on-bad-exit=0",
         "--input", "none", "--export", "ALL", "--quiet", *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip


def _answers(child: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """Read `count` lines of JSON; fewer when the step ends before, or in PATIENCE. The step may go on then."""
    assert child.stdout is not None
    answers: list[dict[str, Any]] = []
    timer = threading.Timer(PATIENCE, child.terminate)
    timer.daemon = True
    timer.start()
    try:
        for line in child.stdout:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # a word of Slurm's
            if isinstance(found, dict):
                answers.append(found)
            if len(answers) == count:
                break
    finally:
        timer.cancel()
    return answers

"""The command line of `satenv stage`, and of ROOT/stage, which nodes run without the project."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.base import machine
from cogvideo_sat_env.base.errors import SatenvError
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.cluster.stage import all_nodes, mounts
from cogvideo_sat_env.cluster.stage.stage import WAYS, Staged, find, release_place, stage, used

_HOLD = 1.0  # seconds between two looks at a mount that is held


def parser(program: str) -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        program, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Have a release on this node, or on all nodes of the job, and print what to source:\n"
        "the image is copied to the node, compared, and mounted; else unpacked there; else the shared folder is used.",
        epilog=f'examples:\n  . "$({program} ROOT)"           in a batch script: stage, then activate\n'
        f"  {program} ROOT --release        at its end\n  {program} ROOT --how copy       unpacked, not mounted",
    )  # fmt: skip
    made.add_argument("source", nargs="?", type=_path, metavar="ROOT|RELEASE|IMAGE",
                      help="what was deployed [the folder of this file]")  # fmt: skip
    made.add_argument("--how", choices=("auto", *WAYS), default="auto", help="one way only [auto: the first]")
    made.add_argument("--release", action="store_true", help="undo it, when no other job uses it on the node")
    made.add_argument("--all", action="store_true", help="with --release: also when other jobs use it")
    made.add_argument("--here", action="store_true", help="this node only, inside of a job, too")
    made.add_argument("--json", action="store_true", help="one JSON object on standard output")
    made.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--copied", type=Path, help=argparse.SUPPRESS)
    return made


def main(program: str, command: Sequence[str], beside: Path | None = None) -> int:
    """Run the command line of sys.argv as `program`; return the exit code.

    `command` starts it on another node; `beside` is the ROOT that is meant without a SOURCE.
    """
    return run("satenv", lambda: answer(program, command, sys.argv[1:], beside))


def answer(program: str, command: Sequence[str], arguments: Sequence[str], beside: Path | None = None) -> int:
    """Do what `arguments` say, print, return the exit code. Raises the errors of base/errors.py."""
    given = parser(program).parse_args(arguments)
    source = given.source or beside
    if source is None:
        parser(program).error("name a ROOT, a release or an image")
    if given.all and not given.release:
        parser(program).error("--all belongs to --release")
    if given.here and given.hold:
        return _node(given, source)
    allocation = None if given.here else all_nodes.allocation(os.environ)
    if given.release:
        return _undo(given, allocation, command, source)
    found = find(source)
    nodes = None
    if allocation:
        arguments = [str(found.image or found.folder), "--how", given.how]  # `current` may be moved meanwhile
        staged, nodes = all_nodes.stage_all(found, allocation, command, arguments, _say)
    else:
        staged = stage(found, _ways(given), given.copied, _say)
        if staged.how == mounts.FUSE and os.environ.get("SLURM_STEP_NUM_TASKS"):
            _say(f"{staged.prefix}: is mounted as long as this step of the job lives; ranks started later stage anew")
    text = {**_facts(staged), **({"nodes": nodes} if nodes else {})}
    print(json.dumps(text, indent=None if given.hold else 2) if given.json else staged.activate)
    return 0


def _node(given: argparse.Namespace, source: Path) -> int:
    """Serve one node for a job's batch script: one line of JSON, then stay as long as a FUSE mount needs a process."""
    node = os.environ.get("SLURMD_NODENAME") or platform.node()

    def say(text: str) -> None:
        _say(f"{node}: {text}")

    try:
        staged = stage(find(source), _ways(given), given.copied, say)
    except Exception as error:
        known = machine.in_words(error)
        if known is None:
            raise
        print(json.dumps({"node": node, "error": known.message}), flush=True)
        return known.exit_code
    print(json.dumps({"node": node, **_facts(staged)}), flush=True)
    if staged.how == mounts.FUSE:  # Slurm ends what a step started together with the step
        while mounts.mounted(staged.prefix):
            time.sleep(_HOLD)
    return 0


def _undo(
    given: argparse.Namespace, allocation: all_nodes.Allocation | None, command: Sequence[str], source: Path
) -> int:
    if allocation:
        arguments = [str(Path(os.path.abspath(source))), "--release", *(["--all"] if given.all else [])]
        answers = all_nodes.release_all(allocation, command, arguments)
    else:
        node = os.environ.get("SLURMD_NODENAME") or platform.node()
        try:
            removed = [release_place(found, given.all, _say) for found in used(source)]
        except SatenvError as error:
            if not given.json:
                raise
            print(json.dumps({"node": node, "error": error.message, "remedy": error.remedy}))
            return error.exit_code
        answers = [{"node": node, "removed": any(removed)}]
    if given.json:
        print(json.dumps({"nodes": answers} if allocation else answers[0]))
    return 0


def _ways(given: argparse.Namespace) -> tuple[str, ...]:
    return WAYS if given.how == "auto" else (given.how,)


def _facts(staged: Staged) -> dict[str, object]:
    return {
        "prefix": str(staged.prefix), "activate": str(staged.activate), "how": staged.how, "image": staged.image,
        "why": staged.why,
    }  # fmt: skip


def _say(text: str) -> None:
    print(f"stage: {text}", file=sys.stderr, flush=True)


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, found an empty one")
    return Path(os.path.expanduser(text))

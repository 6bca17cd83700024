"""`cogvideo-sat-env` inside an environment: `doctor`, as `satenv doctor` of the project, and `version`.

Standard library only. Another command is added with one entry of COMMANDS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import EXIT_CODES, InputError, SatenvError
from cogvideo_sat_env.base.paths import envs_dir
from cogvideo_sat_env.base.stdio import fill_closed
from cogvideo_sat_env.doctor.command import Request, answer, say
from cogvideo_sat_env.doctor.model import LEVELS
from cogvideo_sat_env.spec import why

PROGRAM = "cogvideo-sat-env"


@dataclass(frozen=True)
class Command:
    """One command: its line in the help, its options, and what runs it and returns the exit code."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `doctor`: those of `satenv doctor` (a test holds them equal)."""
    add = parser.add_argument
    add("-p", "--prefix", type=Path, help="folder of the environment (default: the active one, else this one)")
    add("-n", "--name", help="name of the environment")
    add("--level", choices=LEVELS, default="full", help="how deep (default: %(default)s)")
    add("--only", action="append", default=[], metavar="ID", help="only this check or subject; repeatable")
    add("--skip", action="append", default=[], metavar="ID", help="not this check or subject; repeatable")
    add("--advisories", type=Path, metavar="PATH", help="known vulnerabilities: an OSV JSON file, or a folder of them")
    add("--config", type=Path, metavar="FILE", help="settings of single checks: a JSON object")
    add("--patience", type=float, default=1.0, metavar="FACTOR", help="multiply the time limits, on a slow machine")
    add("--nodes", type=int, metavar="N", help="on N nodes: inside a step of srun or torchrun, or started with srun")
    add("--ntasks", type=int, metavar="M", help="as M processes (default: one a node)")
    add("--strict", action="store_true", help="a warning counts as a failure")
    add("--list", dest="listing", action="store_true", help="list the checks and the failure that each catches")
    add("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML, too")
    add("--json", dest="as_json", action="store_true", help="one JSON object on standard output")


def run_doctor(options: argparse.Namespace) -> int:
    """Run the doctor; print what it says; return the exit code."""
    request = Request(
        level=options.level, only=options.only, skip=options.skip, listing=options.listing, as_json=options.as_json,
        junit=options.junit, strict=options.strict, patience=options.patience, advisories=options.advisories,
        config=options.config, nodes=options.nodes, ntasks=options.ntasks,
    )  # fmt: skip
    text, code = answer(request, lambda: _prefix(options.prefix, options.name))
    say(text)
    return code


def _prefix(prefix: Path | None, name: str | None) -> Path:
    if prefix is not None and name is not None:
        raise InputError("-p and -n exclude each other", "name the folder or the environment, not both")
    if name is not None:
        return envs_dir() / name
    return prefix or Path(os.environ.get("CONDA_PREFIX") or sys.prefix)


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    return


def _run_version(options: argparse.Namespace) -> int:
    print(f"{PROGRAM} {__version__}")
    return 0


COMMANDS: dict[str, Command] = {
    "doctor": Command("prove that the environment trains; say what to type when it doesn't", add_doctor, run_doctor),
    "version": Command("print the version", _add_nothing, _run_version),
    "why": Command("say why a package is needed or bounded", why.add_arguments, why.run),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (errors.EXIT_CODES)."""
    fill_closed()
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="The environment for fine-tuning CogVideoX with SAT: its own examination.",
        epilog="exit codes:\n" + "\n".join(f"  {code:<3} {text}" for code, text in EXIT_CODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(subparsers.add_parser(name, help=command.help, description=command.help))
    options = parser.parse_args(arguments)
    # clean up as on Ctrl-C when a batch system or a lost terminal ends us
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _end)
    try:
        return COMMANDS[options.command].run(options)
    except SatenvError as error:
        _report(error, getattr(options, "as_json", False))
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes it at exit
        return 0
    except Exception:  # a fault of ours: the trace is what a report needs
        traceback.print_exc()
        print(f"{PROGRAM}: this is a fault of the program; please report it with the lines above", file=sys.stderr)
        return 70


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(error: SatenvError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}, indent=2))
        return
    print(f"{PROGRAM}: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"  {error.remedy}", file=sys.stderr)

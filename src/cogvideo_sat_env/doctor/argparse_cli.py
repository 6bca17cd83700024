"""`cogvideo-sat-env` inside an environment: `doctor`, as `satenv doctor` of the project, and `version`.

Standard library only. Another command is added with one entry of COMMANDS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import EXIT_CODES
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.doctor.command import answer
from cogvideo_sat_env.doctor.command_options import DoctorOptions, add_to
from cogvideo_sat_env.spec import reasons

PROGRAM = "cogvideo-sat-env"


@dataclass(frozen=True)
class Command:
    """One command: its line in the help, its options, and what runs it and returns the exit code."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def run_doctor(parsed: argparse.Namespace) -> int:
    """Run the doctor; print its report; return the exit code."""
    values = {name: value for name, value in vars(parsed).items() if name != "command"}
    text, code = answer(DoctorOptions(**values), lambda: Path(sys.prefix))
    print(text, end="")
    return code


def _run_version(parsed: argparse.Namespace) -> int:
    print(f"{PROGRAM} {__version__}")
    return 0


COMMANDS: dict[str, Command] = {
    "doctor": Command("prove that the environment trains; say what to type when it doesn't", add_to, run_doctor),
    "version": Command("print the version", lambda parser: None, _run_version),
    "why": Command("say why a package is needed or bounded", reasons.add_arguments, reasons.run),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (errors.EXIT_CODES)."""
    return run(PROGRAM, lambda: _command(arguments))


def _command(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="The environment for fine-tuning CogVideoX with SAT: its own examination.",
        epilog="exit codes:\n" + "\n".join(f"  {code:<3} {text}" for code, text in EXIT_CODES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add(subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False))
    parsed = parser.parse_args(arguments)
    return COMMANDS[parsed.command].run(parsed)

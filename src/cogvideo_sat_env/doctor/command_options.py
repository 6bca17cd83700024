"""The options of `doctor`, once: the project's click command and the environment's argparse one are made from this."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.doctor.check_result import LEVELS

FLAG, LIST, PATHS = "flag", "list", "paths"


@dataclass(frozen=True)
class Option:
    """One option: its flags, the name of its value, its help, and what its value is.

    kind     FLAG, LIST (repeatable text), PATHS (repeatable paths), a tuple of choices, or a type: str, int, float,
             Path
    is_file  a path that may not be a folder
    """

    flags: tuple[str, ...]
    name: str
    help: str
    kind: Any = str
    metavar: str | None = None
    default: Any = None
    is_file: bool = False


OPTIONS: tuple[Option, ...] = (
    Option(("-p", "--prefix"), "prefix", "Folder of the environment.", Path, "FOLDER"),
    Option(("-n", "--name"), "name", "Name of the environment."),
    Option(("--python",), "python", "Any other Python that has torch (a site's module, a container, a venv), as it is.",
           Path, "PROGRAM"),
    Option(("--level",), "level", "How deep: quick before a job, full for all, gpu for quick and all GPU checks.",
           LEVELS, default="full"),
    Option(("--only",), "only", "Only this check or subject (repeat for several).", LIST, "ID"),
    Option(("--skip",), "skip", "Not this check or subject (repeat for several).", LIST, "ID"),
    Option(("--advisories",), "advisories", "Known vulnerabilities: an OSV JSON file, or a folder of them.", Path,
           "PATH"),
    Option(("--config",), "config", "Settings of single checks: a JSON object.", Path, "FILE", is_file=True),
    Option(("--patience",), "patience", "Multiply the time limits, on a slow machine.", float, "FACTOR", 1.0),
    Option(("--nodes",), "nodes", "On N nodes: inside a step of srun or torchrun, or started with srun.", int, "N"),
    Option(("--ntasks",), "ntasks", "As M processes [default: one a node].", int, "M"),
    Option(("--sat",), "sat", "Examine your checkout of CogVideo (its top or its sat/) in place of the environment.",
           Path, "DIR"),
    Option(("--base",), "base", "With --sat: a YAML of the run (repeat, in upstream's order).", PATHS, "CONFIG"),
    Option(("--train-args",), "train_args", "With --sat: what else stands on train_video.py's command line, in quotes.",
           metavar="ARGS", default=""),
    Option(("--explain",), "explain", "Say which known failures are in a log or traceback (- for standard input).",
           metavar="FILE"),
    Option(("--strict",), "strict", "A warning counts as a failure.", FLAG),
    Option(("--list",), "listing", "List the checks and the failure that each catches.", FLAG),
    Option(("--junit",), "junit", "Write the report as JUnit XML, too.", Path, "FILE", is_file=True),
    Option(("--json",), "as_json", "One JSON object on standard output.", FLAG),
)  # fmt: skip


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare all options on an argparse parser."""
    for option in OPTIONS:
        settings: dict[str, Any] = {"dest": option.name, "help": option.help}
        if option.kind == FLAG:
            settings["action"] = "store_true"
        elif option.kind == LIST:
            settings |= {"action": "append", "default": [], "metavar": option.metavar}
        elif option.kind == PATHS:
            settings |= {"action": "append", "default": [], "type": Path, "metavar": option.metavar}
        elif isinstance(option.kind, tuple):
            settings |= {"choices": option.kind, "default": option.default}
        else:
            settings |= {"type": option.kind, "default": option.default, "metavar": option.metavar}
        parser.add_argument(*option.flags, **settings)

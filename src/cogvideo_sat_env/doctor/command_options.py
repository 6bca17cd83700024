"""The options of `doctor`, once: the project's click command and the environment's argparse one are made from this."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.check_result import LEVELS


@dataclass(frozen=True)
class Option:
    """One option: its flags, the name of its value, its help, and what its value is.

    kind     bool for a flag, a tuple of choices, or another type: str, int, float, Path
    repeat   it may be given several times; its value is then a list
    is_file  a path that may not be a folder
    """

    flags: tuple[str, ...]
    name: str
    help: str
    kind: Any = str
    metavar: str | None = None
    default: Any = None
    repeat: bool = False
    is_file: bool = False


OPTIONS: tuple[Option, ...] = (
    Option(("-p", "--prefix"), "prefix", "Folder of the environment.", Path, "FOLDER"),
    Option(("-n", "--name"), "name", "Name of the environment."),
    Option(("--python",), "python", "Any other Python that has torch (a site's module, a container, a venv), as it is.",
           Path, "PROGRAM"),
    Option(("--level",), "level", "How deep: quick before a job, full for all, gpu for quick and all GPU checks.",
           LEVELS, default="full"),
    Option(("--only",), "only", "Only this check or subject (repeat for several).", metavar="ID", repeat=True),
    Option(("--skip",), "skip", "Not this check or subject (repeat for several).", metavar="ID", repeat=True),
    Option(("--advisories",), "advisories", "Known vulnerabilities: an OSV JSON file, or a folder of them.", Path,
           "PATH"),
    Option(("--config",), "config", "Settings of single checks: a JSON object.", Path, "FILE", is_file=True),
    Option(("--patience",), "patience", "Multiply the time limits, on a slow machine.", float, "FACTOR", 1.0),
    Option(("--nodes",), "nodes", "On N nodes: inside a step of srun or torchrun, or started with srun.", int, "N"),
    Option(("--ntasks",), "ntasks", "As M processes [default: one a node].", int, "M"),
    Option(("--sat",), "sat", "Examine your checkout of CogVideo (its top or its sat/) in place of the environment.",
           Path, "DIR"),
    Option(("--base",), "base", "With --sat: a YAML of the run (repeat, in upstream's order).", Path, "CONFIG",
           repeat=True),
    Option(("--train-args",), "train_args", "With --sat: what else stands on train_video.py's command line, in quotes.",
           metavar="ARGS", default=""),
    Option(("--explain",), "explain", "Say which known failures are in a log or traceback (- for standard input).",
           metavar="FILE"),
    Option(("--strict",), "strict", "A warning counts as a failure.", bool),
    Option(("--list",), "listing", "List the checks and the failure that each catches.", bool),
    Option(("--junit",), "junit", "Write the report as JUnit XML, too.", Path, "FILE", is_file=True),
    Option(("--json",), "as_json", "One JSON object on standard output.", bool),
)  # fmt: skip


@dataclass(frozen=True)
class DoctorOptions:
    """The options of `doctor` (see docs/doctor.md)."""

    prefix: Path | None = None
    name: str | None = None
    python: Path | None = None
    level: str = "full"
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    listing: bool = False
    as_json: bool = False
    junit: Path | None = None
    strict: bool = False
    patience: float = 1.0
    advisories: Path | None = None
    config: Path | None = None
    nodes: int | None = None
    ntasks: int | None = None
    sat: Path | None = None
    base: Sequence[Path] = ()
    train_args: str = ""
    explain: str | None = None


def add_to(parser: argparse.ArgumentParser) -> None:
    """Declare all options on an argparse parser."""
    for option in OPTIONS:
        settings: dict[str, Any] = {"dest": option.name, "help": option.help}
        if option.kind is bool:
            settings["action"] = "store_true"
        elif isinstance(option.kind, tuple):
            settings |= {"choices": option.kind, "default": option.default}
        else:
            settings |= {"type": option.kind, "default": option.default, "metavar": option.metavar}
        if option.repeat:
            settings |= {"action": "append", "default": []}
        parser.add_argument(*option.flags, **settings)


def read_options(request: DoctorOptions) -> dict[str, Any]:
    """Return the settings of single checks: those of --config, then those with a switch of their own.

    Raises InputError when a file is missing or isn't what it has to be.
    """
    options: dict[str, Any] = {}
    if request.config:
        expected = "expected settings in JSON"
        try:
            content = json.loads(request.config.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{request.config}: {error.strerror}; {expected}", "check --config") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{request.config}: {error}; {expected}", "correct that file") from error
        if not isinstance(content, dict):
            raise InputError(
                f'{request.config}: expected a JSON object with keys "<subject>.<what>"', "docs/doctor.md lists them"
            )
        _check_settings(request.config, content)
        options |= content
    if request.advisories:
        if not request.advisories.exists():
            raise InputError(
                f"{request.advisories}: no such file; expected advisories in OSV's JSON format, or a folder of them",
                "check --advisories",
            )
        options["security.advisories"] = str(request.advisories.absolute())
    return options


# The settings that --config may have (docs/doctor.md): what each must be, in words, and whether a value is that.
_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "identity.seconds": ("a number of seconds, 0 or more", lambda value: _number(value) and value >= 0),
    "video.seconds": ("a number of seconds above 0", lambda value: _number(value) and value > 0),
    "video.clip": ("a path", lambda value: isinstance(value, str)),
    "security.advisories": ("a path", lambda value: isinstance(value, str)),
    "security.accepted": (
        "a list of ids", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)
    ),
}  # fmt: skip


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raise InputError for a setting that doesn't exist or has a value of another kind: it would be a false finding."""
    for name, value in settings.items():
        if name not in _SETTINGS:
            known = ", ".join(_SETTINGS)
            raise InputError(f"{path}: no setting is called {name!r}; there are {known}", "correct that file")
        expected, fits = _SETTINGS[name]
        if not fits(value):
            raise InputError(f"{path}: {name} is {json.dumps(value)}; expected {expected}", "correct that file")

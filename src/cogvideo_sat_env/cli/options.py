"""What the commands' declarations share."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cogvideo_sat_env.base.command_name import program_name
from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.paths import user_path
from cogvideo_sat_env.base.printable import printable

if TYPE_CHECKING:
    from cogvideo_sat_env.fetch.wanted import Policy
    from cogvideo_sat_env.install.job import Options
    from cogvideo_sat_env.install.outcome import InstallOutcome


class UserPath(click.Path):
    """A path as users write it: `~` is a home directory although the shell left it, and nothing isn't the cwd."""

    def __init__(self, **checks: bool) -> None:
        super().__init__(path_type=Path, **checks)  # type: ignore[type-var]

    def convert(self, value, param, ctx):
        """Return the path; a usage error for one that can't be meant."""
        try:
            return super().convert(user_path(os.fspath(value)), param, ctx)
        except InputError as error:
            self.fail(f"{error.message} ({error.remedy})", param, ctx)


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the decorator that declares all of `options`, in this order."""

    def declare(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return declare


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
OUTPUT = _together(JSON, click.option("-q", "--quiet", is_flag=True, help="No progress."))
ENVIRONMENT = _together(
    click.option("-p", "--prefix", type=UserPath(), help="Folder of the environment."),
    click.option("-n", "--name", help="Name of the environment [default: that of environment.yml]."),
)
TRANSFERS = _together(
    click.option("--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Transfers at once."),
    click.option("--limit-rate", metavar="BYTES", help="Bytes per second for all transfers together, e.g. 20M."),
)
VERIFY = click.option(
    "--verify", type=click.Choice(["changed", "full"]), default="changed", show_default=True,
    help="Hash again what of the package cache has changed since it was proven, or all of it.",
)  # fmt: skip
BREAK_LOCK = click.option(
    "--break-lock", is_flag=True, help="Take over the lock of a process on another host that has been silent for long."
)
WAIT = click.option(
    "--wait", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for another run that is at work on the same prefix. [default: until it ends]",
)  # fmt: skip
LOCK = click.option(
    "--lock", type=UserPath(dir_okay=False), metavar="FILE",
    help="A conda-lock file in place of the project's own, e.g. one by satenv lock --with-channel.",
)  # fmt: skip

INSTALLING = _together(
    click.option(
        "--allow-link-scripts", multiple=True, metavar="PACKAGE|all",
        help="Run the post-link scripts of a package; none is run otherwise, all are listed. May be repeated.",
    ),
    BREAK_LOCK,
    WAIT,
    click.option("--no-doctor", is_flag=True, help="Don't run the doctor at the end."),
)  # fmt: skip
SELECTION = _together(
    click.option("--platform", "platforms", multiple=True, metavar="SUBDIR", help="A conda subdir; may be repeated."),
    click.option("--all", "everything", is_flag=True, help="Every platform and variant that there is a lock for."),
    click.option(
        "--variant", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
        help="auto: what suits this machine; for a platform that is named, cuda where there is one.",
    ),
    LOCK,
)  # fmt: skip


def _allow(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None:
        from cogvideo_sat_env.fetch.limit import parse_bytes
        from cogvideo_sat_env.fetch.wanted import MAX_FILE_SIZE

        parse_bytes(value, "--max-file-size")
        os.environ[MAX_FILE_SIZE] = value  # for processes that fetch for this one, too


MAX_FILE_SIZE = click.option(
    "--max-file-size", metavar="BYTES", expose_value=False, callback=_allow,
    help="The most that is fetched of a file whose size the lock doesn't say, e.g. 10G. [default: 4G]",
)  # fmt: skip


def require_maintainer_tools() -> None:
    """Raise MissingToolError without conda-lock: from a bundle, or after `pip install` without [maintainer]."""
    if find_spec("conda_lock") is None:
        raise MissingToolError(
            "conda-lock is not among the tools of this program; satenv lock and satenv check need it",
            "run scripts/satenv of a checkout, which brings it, or: pip install 'conda-lock>=4,<5' tomlkit",
        )


def show(found: Any, as_json: bool) -> None:
    """Print a result as one JSON object, or for people."""
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else printable(found.to_text()), nl=as_json)


def show_outcome(outcome: InstallOutcome, as_json: bool) -> None:
    """Print what was done to an environment, and end with its exit code."""
    from cogvideo_sat_env.create.outcome_text import outcome_text

    click.echo(json.dumps(outcome.to_json(), indent=2) if as_json else outcome_text(outcome), nl=as_json)
    sys.exit(outcome.exit_code)


def install_options(given: dict[str, Any], **more: bool) -> Options:
    """Take what belongs to an install's options out of a command's, and return it with `more`."""
    from cogvideo_sat_env.install.job import Options

    return Options(**{field.name: given.pop(field.name) for field in fields(Options) if field.name in given}, **more)


def policy(jobs: int, limit_rate: str | None) -> Policy:
    """Return what --jobs and --limit-rate mean. Raises InputError."""
    from cogvideo_sat_env.fetch.limit import parse_bytes
    from cogvideo_sat_env.fetch.wanted import Policy

    return Policy(jobs=jobs, limit_rate=parse_bytes(limit_rate, "--limit-rate") if limit_rate else None)


def examples(text: str) -> dict[str, str]:
    """Return the `epilog` of a command: its examples, one a line, with the program's name as the user started it."""
    lines = (re.sub(r"^satenv ", f"{program_name()} ", line.strip()) for line in text.strip().splitlines())
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)}

"""What the commands' declarations share."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import click

from cogvideo_sat_env.base.command_name import program_name
from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.paths import user_path


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


WAIT = click.option(
    "--wait", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for another run that is at work on the same prefix. [default: until it ends]",
)  # fmt: skip
LOCK = click.option(
    "--lock", type=UserPath(dir_okay=False), metavar="FILE",
    help="A conda-lock file in place of the project's own, e.g. one by satenv lock --with-channel.",
)  # fmt: skip


def _allow(_: click.Context, __: click.Parameter, value: str | None) -> None:
    from cogvideo_sat_env.fetch.limit import parse_bytes
    from cogvideo_sat_env.fetch.model import MAX_FILE_SIZE

    if value is not None:
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


def examples(text: str) -> dict[str, str]:
    """Return the `epilog` of a command: its examples, one a line, with the program's name as the user started it."""
    lines = (re.sub(r"^satenv ", f"{program_name()} ", line.strip()) for line in text.strip().splitlines())
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)}

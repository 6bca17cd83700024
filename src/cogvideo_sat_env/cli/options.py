"""What the commands' declarations share."""

from __future__ import annotations

import re
from pathlib import Path

import click

from cogvideo_sat_env.base.command_name import program_name

WAIT = click.option(
    "--wait", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for another run that is at work on the same prefix. [default: until it ends]",
)  # fmt: skip
LOCK = click.option(
    "--lock", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="A conda-lock file in place of the project's own, e.g. one by satenv lock --with-channel.",
)  # fmt: skip


def examples(text: str) -> dict[str, str]:
    """Return the `epilog` of a command: its examples, one a line, with the program's name as the user started it."""
    lines = (re.sub(r"^satenv ", f"{program_name()} ", line.strip()) for line in text.strip().splitlines())
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)}

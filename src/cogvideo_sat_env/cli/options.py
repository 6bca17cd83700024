"""What the commands' declarations share."""

from __future__ import annotations

from pathlib import Path

import click

WAIT = click.option(
    "--wait", type=click.FloatRange(min=0), metavar="SECONDS",
    help="How long to wait for another run that is at work on the same prefix. [default: until it ends]",
)  # fmt: skip
LOCK = click.option(
    "--lock", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="A conda-lock file in place of the project's own, e.g. one by satenv lock --with-channel.",
)  # fmt: skip


def examples(text: str) -> dict[str, str]:
    """Return the `epilog` of a command: its examples, one a line."""
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())}

"""`satenv --version`: the program, the commit of its checkout and the age of its lock."""

from __future__ import annotations

from pathlib import Path

import click

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base import git
from cogvideo_sat_env.base.errors import SatenvError


def version_line(root: Path) -> str:
    """Return version, commit and day of the lock's last commit; outside a git checkout, the version alone."""
    commit = _git(root, "describe", "--always", "--dirty", "--exclude=*")
    if not (root / ".git").exists() or not commit:
        return f"satenv {__version__}"
    day = _git(root, "log", "-1", "--format=%cs", "--", "conda-lock.yml")
    return f"satenv {__version__} (commit {commit}{f', lock of {day}' if day else ''})"


def show(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print the version and end: the callback of --version."""
    if wanted and not context.resilient_parsing:
        from cogvideo_sat_env.base.paths import DATA

        click.echo(version_line(DATA.parents[2]))
        context.exit()


def _git(root: Path, *arguments: str) -> str:
    try:
        return git.output(root, *arguments).decode("utf-8", "replace").strip()
    except SatenvError:
        return ""

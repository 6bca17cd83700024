"""`satenv update` and `satenv undo`."""

from __future__ import annotations

from pathlib import Path

import click

from cogvideo_sat_env.cli import options
from cogvideo_sat_env.cli.options import create_request, examples, say, show_outcome, source


def _target(prefix: Path | None, name: str | None) -> Path:
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.create.create import target_prefix
    from cogvideo_sat_env.spec.environment import read_environment

    return target_prefix(prefix, name, read_environment(project_root() / "environment.yml"))


@click.command(
    **examples("""
    satenv update                    bring the environment to the present lock
    satenv update -p /scratch/sat    the one in that folder
    satenv undo                      back to what it was before
    """)
)
@options.ENVIRONMENT
@source("what it was made from")
@options.LOCK
@options.MAX_FILE_SIZE
@click.option("--variant", type=click.Choice(["auto", "cuda", "cpu"]), help="[default: the one it has]")
@click.option("--no-keep", is_flag=True, help="Don't keep the former environment; there is no undo then.")
@options.VERIFY
@options.INSTALLING
@options.OUTPUT
def update(prefix, name, variant, no_keep, as_json, progress, **given) -> None:
    """Bring an environment to the present lock in one step; satenv undo goes back.

    The new one is made beside the old one and takes its place when it is complete. The old one is kept until the next
    update. Packages that you added yourself are not in the new one.
    """
    from cogvideo_sat_env.create import update as updating

    request = create_request({**given, "variant": variant or ""}, sources=(), keep=not no_keep)
    outcome = updating.update(_target(prefix, name), request, progress)
    show_outcome(outcome, as_json)


@click.command(
    **examples("""
    satenv undo              back to what the environment was before the last update; again, and forward
    satenv undo --forget     delete what is kept, to free its space
    """)
)
@options.ENVIRONMENT
@click.option("--forget", is_flag=True, help="Delete what is kept instead.")
@options.BREAK_LOCK
@options.WAIT
@options.JSON
def undo(prefix, name, forget, break_lock, wait, as_json) -> None:
    """Put back the environment as it was before the last satenv update."""
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.create import update as updating

    progress = choose(json=as_json)
    done = updating.undo(_target(prefix, name), forget=forget, break_lock=break_lock, progress=progress, wait=wait)
    say(done.to_json(), done.text, as_json)

"""`satenv update` and `satenv undo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import LOCK, MAX_FILE_SIZE, WAIT, UserPath, examples


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
@click.option("-p", "--prefix", type=UserPath(), help="Folder of the environment.")
@click.option("-n", "--name", help="Name of the environment [default: that of environment.yml].")
@click.option(
    "--source", "sources", multiple=True, metavar="auto|channel|mirror=WHERE|wheels",
    help="As for satenv create. [default: what it was made from]",
)  # fmt: skip
@LOCK
@MAX_FILE_SIZE
@click.option("--variant", type=click.Choice(["auto", "cuda", "cpu"]), help="[default: the one it has]")
@click.option("--no-keep", is_flag=True, help="Don't keep the former environment; there is no undo then.")
@click.option("--verify", type=click.Choice(["changed", "full"]), default="changed", help="As for satenv create.")
@click.option("--allow-link-scripts", multiple=True, metavar="PACKAGE|all", help="As for satenv create.")
@click.option("--break-lock", is_flag=True, help="As for satenv create.")
@WAIT
@click.option("--no-doctor", is_flag=True, help="Don't run the doctor at the end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def update(
    prefix, name, sources, lock, variant, no_keep, verify, allow_link_scripts, break_lock, wait, no_doctor, as_json,
    quiet,
) -> None:  # fmt: skip
    """Bring an environment to the present lock in one step; satenv undo goes back.

    The new one is made beside the old one and takes its place when it is complete. The old one is kept until the next
    update. Packages that you added yourself are not in the new one.
    """
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.create import update as updating
    from cogvideo_sat_env.create.create import Request
    from cogvideo_sat_env.create.outcome import outcome_text
    from cogvideo_sat_env.install.job import Options

    request = Request(
        sources=sources,
        variant=variant or "",
        options=Options(
            keep=not no_keep,
            full=verify == "full",
            break_lock=break_lock,
            allow_link_scripts=allow_link_scripts,
            wait=wait,
        ),
        lock=lock,
        doctor=not no_doctor,
    )
    outcome = updating.update(_target(prefix, name), request, choose(json=as_json, quiet=quiet))
    if as_json:
        click.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        click.echo(outcome_text(outcome), nl=False)
    sys.exit(outcome.exit_code)


@click.command(
    **examples("""
    satenv undo              back to what the environment was before the last update; again, and forward
    satenv undo --forget     delete what is kept, to free its space
    """)
)
@click.option("-p", "--prefix", type=UserPath(), help="Folder of the environment.")
@click.option("-n", "--name", help="Name of the environment [default: that of environment.yml].")
@click.option("--forget", is_flag=True, help="Delete what is kept instead.")
@click.option("--break-lock", is_flag=True, help="As for satenv create.")
@WAIT
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def undo(prefix, name, forget, break_lock, wait, as_json) -> None:
    """Put back the environment as it was before the last satenv update."""
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.create import update as updating

    progress = choose(json=as_json)
    done = updating.undo(_target(prefix, name), forget=forget, break_lock=break_lock, progress=progress, wait=wait)
    click.echo(json.dumps(done.to_json(), indent=2) if as_json else done.text, nl=as_json)

"""`satenv lock`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import examples


@click.command(
    **examples("""
    satenv lock                                    every platform and variant, from the channels
    satenv lock --frozen ../shared/conda-channels  against frozen channel metadata
    satenv lock --update transformers              move one package and what it forces, nothing else
    satenv lock --only linux-64-cuda --conda micromamba
    satenv lock --wheels                           the wheel locks, for sites without conda channels
    """)
)
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant, e.g. linux-64-cpu.")
@click.option("--render", is_flag=True, help="Only write the generated files anew from the present locks.")
@click.option(
    "--frozen",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Solve against the channel metadata in this folder; the lock's URLs are the channels' own.",
)
@click.option("--conda", metavar="PATH", help="Your conda, mamba or micromamba in place of rattler.")
@click.option("--update", multiple=True, metavar="NAME", help="Update this package, keep the others.")
@click.option("--wheels", is_flag=True, help="Make the wheel locks instead (asks the package index).")
@click.option("--python", "pythons", multiple=True, metavar="PATH", help="With --wheels: lock for this interpreter.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def lock(only, render, frozen, conda, update, wheels, pythons, as_json, quiet) -> None:
    """Make conda-lock.yml with conda-lock, and everything that is rendered from it."""
    from cogvideo_sat_env.lock import command
    from cogvideo_sat_env.paths import project_root
    from cogvideo_sat_env.progress import choose

    progress = choose(json=as_json, quiet=quiet)
    root = project_root()
    if render and (only or frozen or conda or update or wheels):
        raise click.UsageError("--render works from the present locks: it takes none of the other options")
    if render:
        changed = command.render_project(root)
    elif wheels:
        if only or frozen or conda or update:
            raise click.UsageError("--wheels asks the package index alone: it takes none of the other options")
        changed = command.lock_wheels(root, pythons=[Path(python) for python in pythons], progress=progress)
    else:
        changed = command.lock_project(
            root, wanted=only, frozen=frozen, conda=command.find_conda(conda), update=update, progress=progress
        )
    if as_json:
        click.echo(json.dumps({"changed": changed}, indent=2))
    else:
        click.echo("".join(f"wrote {path}\n" for path in changed) or "nothing changed\n", nl=False)

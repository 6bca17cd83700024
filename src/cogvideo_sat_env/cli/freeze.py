"""`satenv freeze`."""

from __future__ import annotations

import json

import click

from cogvideo_sat_env.cli.options import OUTPUT, UserPath, examples


@click.command(
    **examples("""
    satenv freeze metadata           what the project's locks can be made from again, years later
    satenv lock --frozen metadata    the same locks from it, without channels, index or network
    """)
)
@click.argument("folder", metavar="DIR", type=UserPath(file_okay=False))
@click.option(
    "--frozen",
    type=UserPath(exists=True, file_okay=False),
    help="Take it from the channel metadata in this folder, not from the channels.",
)
@OUTPUT
def freeze(folder, frozen, as_json, progress) -> None:
    """Write the part of the channels' and the package index's metadata that the locks' solves can see into DIR.

    All versions and builds of each package that environment.yml can lead to, on every platform, and of the pip part
    files, hashes and requirements; sorted, packed, hashed in a manifest that `satenv lock --frozen DIR` checks. No
    address of an index is in it. A DIR made by this command is replaced.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.lock import freeze as module

    manifest = module.freeze(project_root(), folder, frozen=frozen, progress=progress)
    if as_json:
        click.echo(json.dumps({"folder": str(folder), **manifest}, indent=2))

"""`satenv lock`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import OUTPUT, UserPath, examples, require_maintainer_tools, say, taken


@click.command(
    **examples("""
    satenv lock                                    every platform and variant, from the channels
    satenv lock --frozen metadata                   against what satenv freeze kept of the channels
    satenv lock --update transformers              move one package and what it forces, nothing else
    satenv lock --only linux-64-cuda --conda micromamba
    satenv lock --wheels                           the wheel locks, for sites without conda channels
    satenv lock --with-channel channel --channel-url https://conda.example.org/cogvideo
    """)
)
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant, e.g. linux-64-cpu.")
@click.option("--render", is_flag=True, help="Only write the generated files anew from the present locks.")
@click.option(
    "--frozen",
    type=UserPath(exists=True, file_okay=False),
    help="Solve against the channel metadata in this folder; the lock's URLs are the channels' own.",
)
@click.option("--conda", metavar="PATH", help="Your conda, mamba or micromamba in place of rattler.")
@click.option("--update", multiple=True, metavar="NAME", help="Update this package, keep the others.")
@click.option(
    "--pieces",
    type=click.Choice(["auto", "conda", "pip"]),
    help="Whence what the pip part lists comes: from conda where the channels have it and it fits [auto], from conda "
    "or not at all, from pip.",
)
@click.option("--wheels", is_flag=True, help="Make the wheel locks instead (asks the package index).")
@click.option("--python", "pythons", multiple=True, metavar="PATH", help="With --wheels: lock for this interpreter.")
@click.option(
    "--with-channel",
    metavar="DIR|URL",
    help="Lock nothing but cogvideo-sat-env, with this built channel before the others; no project file changes.",
)
@click.option("--channel-url", metavar="URL", help="Where that channel will be served: what the lock says.")
@click.option("--override-channels", is_flag=True, help="That channel is the only one: a mirror of all that is needed.")
@click.option(
    "--out",
    type=UserPath(dir_okay=False),
    help="With --with-channel: the conda-lock file [cogvideo-sat-env-VARIANT.conda-lock.yml].",
)
@OUTPUT
def lock(render, pieces, wheels, pythons, with_channel, as_json, progress, **given) -> None:
    """Make conda-lock.yml with conda-lock, and everything that is rendered from it."""
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.lock import relock
    from cogvideo_sat_env.lock.make import Solver
    from cogvideo_sat_env.spec.placement import placements_file

    require_maintainer_tools()
    root = project_root()
    more: dict = {}
    only, frozen, update = given["only"], given["frozen"], given["update"]
    for_solver = only or frozen or given["conda"] or update
    if pieces and (update or render or wheels or with_channel is not None):
        raise click.UsageError("--pieces places them at a lock of all that environment.yml asks for")
    if render and (for_solver or wheels):
        raise click.UsageError("--render works from the present locks: it takes none of the other options")
    if with_channel is None and (given["channel_url"] or given["override_channels"] or given["out"]):
        raise click.UsageError("--channel-url, --override-channels and --out go with --with-channel")
    if with_channel is not None and (render or update or wheels or pythons):
        raise click.UsageError("--with-channel locks one package anew: it takes --only, --frozen and --conda")
    if given["override_channels"] and frozen:
        raise click.UsageError("--override-channels leaves no channel that --frozen could stand for")
    if wheels and for_solver:
        raise click.UsageError("--wheels asks the package index alone: it takes none of the other options")
    if with_channel is not None:
        from cogvideo_sat_env.package.lock_metapackage import MetapackageOptions, lock_with_channel

        given["conda"] = relock.find_conda(given["conda"])
        changed = lock_with_channel(root, with_channel, taken(MetapackageOptions, given), progress)
    elif render:
        changed = relock.render_project(root)
    elif wheels:
        from cogvideo_sat_env.source.wheels.make_lock import lock_wheels

        changed = lock_wheels(root, pythons=[Path(python) for python in pythons], progress=progress)
    else:
        solver = Solver(frozen, relock.find_conda(given["conda"]))
        relocked = relock.lock_project(
            root, wanted=only, solver=solver, update=update, pieces=pieces or "auto", progress=progress
        )
        changed = relocked.changed
        if as_json:
            more = {"pieces": json.loads(placements_file(relocked.placements))}
        elif not update:
            click.echo(relocked.pieces_text(), nl=False)
    say({"changed": changed, **more}, "".join(f"wrote {path}\n" for path in changed) or "nothing changed", as_json)

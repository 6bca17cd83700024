"""`satenv mirror`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli import options
from cogvideo_sat_env.cli.options import UserPath, examples, show, taken


@click.command(
    **examples("""
    satenv mirror /data/mirror                              this machine's variant, from the lock's channels
    satenv mirror /data/mirror --all                        every platform and variant
    satenv mirror /data/mirror --platform linux-aarch64     another platform
    satenv mirror /data/mirror --from https://mirror.example.org/conda --from channel
    satenv mirror /data/mirror --limit-rate 20M --jobs 2    gently
    satenv create --source mirror=/data/mirror              what it is for
    """)
)
@click.argument("folder", type=UserPath())
@options.SELECTION
@options.MAX_FILE_SIZE
@click.option(
    "--from", "mirrors", multiple=True, metavar="WHERE",
    help="A mirror (folder or address) to take from, or `channel`; may be repeated, tried in order. "
    "[default: the lock's channels, and pip's configured index]",
)  # fmt: skip
@options.TRANSFERS
@click.option("--fast", is_flag=True, help="Trust files whose size and time are as when they were last proven.")
@options.OUTPUT
def mirror(folder, mirrors, fast, as_json, progress, **selection) -> None:
    """Fetch every file of the lock into FOLDER: channels for conda, mamba and pixi, and a wheelhouse for pip.

    What is there is hashed again, never fetched again. Interrupted, it goes on where it broke off.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.fetch.wanted import Policy
    from cogvideo_sat_env.source.mirror.mirror import make_mirror
    from cogvideo_sat_env.source.mirror.selection import read_parts

    policy, parts = taken(Policy, selection), read_parts(project_root(), **selection)
    result = make_mirror(folder, parts, mirrors=mirrors, policy=policy, fast=fast, progress=progress)
    show(result, as_json)

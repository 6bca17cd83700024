"""`satenv mirror`."""

from __future__ import annotations

import json

import click

from cogvideo_sat_env.cli.options import LOCK, MAX_FILE_SIZE, UserPath, examples


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
@click.option("--platform", "platforms", multiple=True, metavar="SUBDIR", help="A conda subdir; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Every platform and variant that there is a lock for.")
@click.option(
    "--variant", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
    help="auto: what suits this machine; for a platform that is named, cuda where there is one.",
)  # fmt: skip
@LOCK
@MAX_FILE_SIZE
@click.option(
    "--from", "mirrors", multiple=True, metavar="WHERE",
    help="A mirror (folder or address) to take from, or `channel`; may be repeated, tried in order. "
    "[default: the lock's channels, and pip's configured index]",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 64), default=8, show_default=True, help="Transfers at once.")
@click.option("--limit-rate", metavar="BYTES", help="Bytes per second for all transfers together, e.g. 20M.")
@click.option("--fast", is_flag=True, help="Trust files whose size and time are as when they were last proven.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def mirror(folder, platforms, everything, variant, lock, mirrors, jobs, limit_rate, fast, as_json, quiet) -> None:
    """Fetch every file of the lock into FOLDER: channels for conda, mamba and pixi, and a wheelhouse for pip.

    What is there is hashed again, never fetched again. Interrupted, it goes on where it broke off.
    """
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.fetch.limit import parse_bytes
    from cogvideo_sat_env.fetch.model import Policy
    from cogvideo_sat_env.source.mirror.mirror import make_mirror
    from cogvideo_sat_env.source.mirror.selection import read_parts

    rate = parse_bytes(limit_rate, "--limit-rate") if limit_rate else None
    root = project_root()
    parts = read_parts(root, platforms, everything, variant, lock)
    result = make_mirror(
        folder, parts, mirrors=mirrors, policy=Policy(jobs=jobs, limit_rate=rate), fast=fast,
        progress=choose(json=as_json, quiet=quiet),
    )  # fmt: skip
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.to_text(), nl=as_json)

"""`satenv cache`: what takes the room in the cache, and freeing it."""

from __future__ import annotations

from pathlib import Path

import click

from cogvideo_sat_env.cli.options import JSON, UserPath, examples, show


@click.group(
    **examples("""
    satenv cache list                  what takes the room
    satenv cache prune --dry-run       what deleting would free
    """)
)
def cache() -> None:
    """List what is in the cache, and delete what isn't needed any more."""


@cache.command("list", **examples("satenv cache list                 by kind, with what deleting would really free"))
@JSON
def list_command(as_json: bool) -> None:
    """Show what takes the room in the cache: by kind, and how much of it deleting would free."""
    from cogvideo_sat_env.base.paths import cache_dir
    from cogvideo_sat_env.create.cache_prune import list_cache

    show(list_cache(cache_dir()), as_json)


@cache.command(
    **examples("""
    satenv cache prune                                       what wasn't used for 30 days, and leftovers
    satenv cache prune --older-than 0d --dry-run             everything that no running command uses; only say what
    satenv cache prune --older-than 0d --keep-locks conda-lock.yml locks/wheels-linux-64-py311.txt
    """)
)
@click.option("--older-than", metavar="AGE", default="30d", show_default=True, help="Unused for so long: 12h, 30d, 8w.")
@click.option(
    "--keep-locks", multiple=True, metavar="FILE...", type=UserPath(exists=True, dir_okay=False),
    help="Keep what this lock names, however old; may be repeated, and more files may follow.",
)  # fmt: skip
@click.argument("more", nargs=-1, metavar="", type=UserPath(exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
@JSON
def prune(older_than: str, keep_locks: tuple[Path, ...], more: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Delete from the cache what wasn't used for long, and what killed runs left.

    Environments stay whole: their files are their own, also where the cache has the same ones. What is deleted is
    fetched or made again when it is needed. Safe beside running commands.
    """
    from cogvideo_sat_env.base.errors import InputError
    from cogvideo_sat_env.base.paths import cache_dir
    from cogvideo_sat_env.base.timestamp import parse_age
    from cogvideo_sat_env.create.cache_prune import prune_cache

    if more and not keep_locks:
        raise InputError(f"{more[0]}: --keep-locks takes the files to keep", "e.g. --keep-locks conda-lock.yml")
    done = prune_cache(cache_dir(), parse_age(older_than, "--older-than"), [*keep_locks, *more], dry_run)
    show(done, as_json)

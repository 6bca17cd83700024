"""`satenv releases`."""

from __future__ import annotations

from typing import Any

import click

from cogvideo_sat_env.cli.options import BREAK_LOCK, JSON, UserPath, examples, show

ACTIONS = ("list", "activate", "rollback", "pin", "unpin", "prune")
_NAMED = ("activate", "pin", "unpin")


@click.command(
    **examples("""
    satenv releases /apps/cogvideo-sat                          what there is, and who uses it
    satenv releases /apps/cogvideo-sat rollback                 back to what was current before
    satenv releases /apps/cogvideo-sat activate 2026-11-26-0123456789ab
    satenv releases /apps/cogvideo-sat pin 2026-11-26-0123456789ab
    satenv releases /apps/cogvideo-sat prune --keep 3 --dry-run
    """)
)
@click.argument("root", type=UserPath())
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("name", required=False)
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="For prune: keep the N newest releases.")
@click.option("--dry-run", is_flag=True, help="For prune: say what would be deleted; delete nothing.")
@click.option("--ignore-jobs", is_flag=True, help="For prune: go on where Slurm doesn't say what its jobs use.")
@BREAK_LOCK
@JSON
def releases(root, action, name, keep, dry_run, ignore_jobs, break_lock, as_json) -> None:
    """List the releases that satenv deploy has made in ROOT; activate one, roll back, pin, prune.

    activate and rollback move ROOT/current in one step; running jobs keep what they have loaded. prune deletes all but
    the --keep N newest, or the one that is named; never the current one, the one before it, a pinned one, one in use.
    """
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.cluster import releases as do

    if (keep is not None or dry_run or ignore_jobs) and action != "prune":
        raise click.UsageError("--keep, --dry-run and --ignore-jobs are about prune")
    if action in _NAMED and not name:
        raise click.UsageError(f"{action} which release? Name one of those that `satenv releases ROOT` lists")
    if name and action in ("list", "rollback"):
        raise click.UsageError(f"{action} takes no release: leave {name!r} out")
    if action == "prune" and (name is None) == (keep is None):
        raise click.UsageError("prune which? Say how many to keep (--keep N), or name one release")
    progress = choose(json=as_json)
    if action == "list":
        found: Any = do.list_releases(root)
    elif action == "activate":
        found = do.activate(root, name, progress, break_lock)
    elif action == "rollback":
        found = do.rollback(root, progress, break_lock)
    elif action == "prune":
        how = {"ignore_jobs": ignore_jobs, "dry_run": dry_run, "break_lock": break_lock}
        found = do.prune(root, progress, keep=keep, name=name, **how)
    else:
        found = do.pin(root, name, action == "pin", progress, break_lock)
    show(found, as_json)

"""`satenv freshen`."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import OUTPUT, UserPath, examples, require_maintainer_tools, say, source, taken


@click.command(
    **examples("""
    satenv freshen                              newer locks, if check and doctor pass; nothing younger than 14 days
    satenv freshen --min-age 30d --dry-run      only say what would change
    satenv freshen --markdown pull-request.md   the text of a pull request
    satenv freshen --probe-bounds               also try beyond every bound of the breakage ledger
    satenv freshen --probe-bounds --bound webdataset-0.2.88 --dry-run
    satenv freshen --frozen later --as-of 2026-09-01     against metadata that satenv freeze kept
    """)
)
@click.option(
    "--min-age",
    default="14d",
    show_default=True,
    metavar="AGE",
    help="Pass over what is younger: a number with d, h or w.",
)
@click.option("--as-of", metavar="DATE", help="The day (UTC) that ages are counted from [default: now].")
@click.option(
    "--frozen",
    type=UserPath(exists=True, file_okay=False),
    help="Against the metadata in this folder, not the channels and the package index.",
)
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant, e.g. linux-64-cpu.")
@click.option("--wheels", is_flag=True, help="The wheel locks too (asks the package index).")
@click.option("--python", "pythons", multiple=True, metavar="PATH", help="With --wheels: for this interpreter.")
@source("auto")
@click.option(
    "--level",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="Of the doctor, on that environment.",
)
@click.option("--no-install", is_flag=True, help="Make no environment: lock and check only.")
@click.option("--probe-bounds", is_flag=True, help="Try beyond the ledger's bounds, and say which hold.")
@click.option("--bound", "bounds", multiple=True, metavar="ID", help="With --probe-bounds: only this entry.")
@click.option("--dry-run", is_flag=True, help="Change no file.")
@click.option("--markdown", type=UserPath(dir_okay=False), metavar="FILE", help="Write the text of a pull request.")
@OUTPUT
def freshen(as_of, wheels, pythons, bounds, markdown, as_json, progress, **given):
    """Lock anew with the newest that the ledger allows; take it over when check and doctor pass.

    The project's files change together, or not at all. What can't be installed on this machine is named, with the
    reason. Exit code 0: all passed (or nothing is newer); 1: something didn't, and no file has changed.
    """
    from cogvideo_sat_env.base.errors import InputError
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.base.timestamp import parse_age
    from cogvideo_sat_env.report import freshen as module
    from cogvideo_sat_env.report.probe_bounds import probe
    from cogvideo_sat_env.source.wheels.make_lock import pythons_on_path

    require_maintainer_tools()
    if bounds and not given["probe_bounds"]:
        raise click.UsageError("--bound goes with --probe-bounds")
    if pythons and not wheels:
        raise click.UsageError("--python goes with --wheels")
    if wheels and given["frozen"]:
        raise click.UsageError("--wheels asks the package index, which --frozen stands for")
    try:
        now = datetime.fromisoformat(as_of).replace(tzinfo=timezone.utc) if as_of else datetime.now(timezone.utc)
    except ValueError as error:
        raise InputError(f"--as-of {as_of}: expected a date", "e.g. --as-of 2026-09-01") from error
    given["min_age"] = timedelta(seconds=parse_age(given["min_age"], "--min-age"))
    given["sources"] = () if given["no_install"] else given["sources"] or ("auto",)
    wheel_pythons = tuple(map(Path, pythons or pythons_on_path())) if wheels else ()
    request = taken(module.FreshenRequest, given, now=now.replace(microsecond=0), wheels=wheel_pythons)
    root = project_root()
    probed = probe(root, request, bounds, progress) if given["probe_bounds"] else None
    found = module.freshen(root, request, progress)
    text = found.to_markdown() + (f"\n{probed.to_markdown()}" if probed else "")
    if markdown:
        markdown.write_text(text, encoding="utf-8")
    end = "".join(f"wrote {name}\n" for name in found.changed) if found.written else ""
    if found.changed and not found.written and found.ok:
        end = "nothing was written (--dry-run)\n"
    bound_list = {"bounds": probed.to_json()} if probed else {}
    say({**found.to_json(), **bound_list, "markdown": text}, text + end, as_json)
    sys.exit(0 if found.ok else 1)

"""`satenv report`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import JSON, ONLY_VARIANT, PLATFORMS, UserPath, examples, say


@click.command(
    **examples("""
    satenv report                                    every variant of the project, side by side
    satenv report --html report.html                 one page: works offline, in the dark, printed
    satenv report ~/.conda/envs/cogvideo-sat         an environment; also a lock, REVISION:PATH, receipt, bundle
    satenv report conda-lock.yml sat.pyz --json      several, for scripts
    """)
)
@click.argument("whats", metavar="[WHAT]...", nargs=-1)
@click.option("--html", "page", type=UserPath(dir_okay=False), metavar="FILE", help="Write one self-contained page.")
@PLATFORMS
@ONLY_VARIANT
@JSON
def report(whats, page, platforms, variant, as_json) -> None:
    """Say what is in WHAT [the project's locks]: sizes and who pulls them in, licences, bounds, ages.

    Ages are counted to now, or to SOURCE_DATE_EPOCH, with which the page is the same for the same locks.
    """
    from cogvideo_sat_env.base.files import write_atomically
    from cogvideo_sat_env.bundle.read_inventory import read
    from cogvideo_sat_env.report.html import render
    from cogvideo_sat_env.report.inventory import of_variant
    from cogvideo_sat_env.report.project import inventories
    from cogvideo_sat_env.report.report import make_report

    if whats:
        found = [one for what in whats for one in of_variant(read(what, platforms), variant)]
    else:
        found = list(inventories(platforms, variant))
    made = make_report(found)
    if page:
        write_atomically(page, render(made))
    say(made.to_json(), f"wrote {page}" if page else made.to_text(), as_json)

"""`satenv diff`."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli.options import JSON, ONLY_VARIANT, PLATFORMS, examples, say


@click.command(
    **examples("""
    satenv diff HEAD~1:conda-lock.yml conda-lock.yml              what the last commit changed
    satenv diff ~/.conda/envs/cogvideo-sat conda-lock.yml         what an update would do
    satenv diff main:conda-lock.yml HEAD:conda-lock.yml --markdown    for a pull request
    satenv diff old.pyz new.pyz --variant linux-64-cuda           two bundles
    """)
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@PLATFORMS
@ONLY_VARIANT
@click.option("--markdown", is_flag=True, help="For a pull request.")
@JSON
def diff(a, b, platforms, variant, markdown, as_json) -> None:
    """Say what differs between A and B: packages, sizes, licences, bounds that are crossed.

    A and B are conda-lock files, explicit lockfiles, git revisions of them (REVISION:PATH), receipts, the folders of
    environments, or bundles. Exit code 0: equal; 1: they differ.
    """
    from cogvideo_sat_env.bundle.read_inventory import read
    from cogvideo_sat_env.report.difference import compare
    from cogvideo_sat_env.report.inventory import of_variant

    if markdown and as_json:
        raise click.UsageError("--markdown and --json are two outputs: name one")
    found = compare(*(of_variant(read(what, platforms), variant) for what in (a, b)))
    say(found.to_json(), found.to_markdown() if markdown else found.to_text(), as_json)
    sys.exit(0 if found.equal else 1)

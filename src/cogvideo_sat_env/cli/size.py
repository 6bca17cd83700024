"""`satenv size`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import JSON, ONLY_VARIANT, PLATFORMS, examples, say


@click.command(
    **examples("""
    satenv size                                   the largest packages of this machine's lock
    satenv size --by requirement                  what each requirement pulls in; shared packages are counted once
    satenv size ~/.conda/envs/cogvideo-sat        an environment: bytes on the disk
    satenv size --platform linux-aarch64 --all    another platform's lock, every package
    """)
)
@click.argument("what", metavar="[WHAT]", required=False)
@click.option("--by", type=click.Choice(["package", "requirement"]), default="package", show_default=True,
              help="requirement: with what it needs alone, and all that it leads to.")  # fmt: skip
@PLATFORMS
@ONLY_VARIANT
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="So many rows.")
@click.option("--all", "everything", is_flag=True, help="All rows.")
@JSON
def size(what, by, platforms, variant, top, everything, as_json) -> None:
    """Say what takes the gigabytes in WHAT: a lock, REVISION:PATH, receipt, prefix or bundle [this machine's lock]."""
    from cogvideo_sat_env.bundle.read_inventory import read
    from cogvideo_sat_env.report.graph import make_graph
    from cogvideo_sat_env.report.inventory import of_variant
    from cogvideo_sat_env.report.project import inventories
    from cogvideo_sat_env.report.size import measure

    if what:
        found = of_variant(read(what, platforms), variant)
    else:
        found = inventories(platforms, variant)
        found = found if platforms or variant else found[:1]
    sizes = [measure(make_graph(one)) for one in found]
    text = "\n".join(one.to_text(by, None if everything else top) for one in sizes)
    say([one.to_json() for one in sizes], text, as_json)

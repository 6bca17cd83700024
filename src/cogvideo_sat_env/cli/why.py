"""`satenv why`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import JSON, PLATFORMS, examples, show


@click.command(
    **examples("""
    satenv why libcublas                            the chains of requirements that lead to it
    satenv why webdataset                           also the bound, what breaks without it, the evidence, the proof
    satenv why TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD     a variable
    satenv why numpy --of ~/.conda/envs/cogvideo-sat    in an environment, a bundle, another lock
    satenv why torchvision --json                   for scripts
    """)
)
@click.argument("name", metavar="PACKAGE")
@click.option("--of", "what", metavar="WHAT", help="A lock, prefix, receipt, bundle or REVISION:PATH [the project's].")
@PLATFORMS
@JSON
def why(name, what, platforms, as_json) -> None:
    """Say why PACKAGE is there, needed or bounded: what a solver's refusal doesn't tell.

    Takes conda and PyPI names: every package of the locks, whatever is required or bounded. The lock of this machine's
    variant is looked into first, then the others. Inside an environment with the metapackage, without the chains:
    cogvideo-sat-env why PACKAGE.
    """
    from cogvideo_sat_env.bundle.read_inventory import read
    from cogvideo_sat_env.report.project import inventories
    from cogvideo_sat_env.report.why import find_why

    show(find_why(name, read(what, platforms) if what else inventories(platforms)), as_json)

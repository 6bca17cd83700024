"""`satenv why`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli.options import JSON, examples, show


@click.command(
    **examples("""
    satenv why webdataset                           the bound, what breaks without it, the evidence, the proof
    satenv why TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD     a variable
    satenv why torchvision --json                   for scripts
    """)
)
@click.argument("name", metavar="PACKAGE")
@JSON
def why(name, as_json) -> None:
    """Say why PACKAGE is needed or bounded: what a solver's refusal doesn't tell.

    Takes conda and PyPI names. Inside an environment with the metapackage: cogvideo-sat-env why PACKAGE.
    """
    from cogvideo_sat_env.spec.why import explain

    answer = explain(name)
    show(answer, as_json)

"""`satenv why`."""

from __future__ import annotations

import json

import click

from cogvideo_sat_env.cli.options import examples


@click.command(
    **examples("""
    satenv why webdataset                           the bound, what breaks without it, the evidence, the proof
    satenv why TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD     a variable
    satenv why torchvision --json                   for scripts
    """)
)
@click.argument("name", metavar="PACKAGE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def why(name, as_json) -> None:
    """Say why PACKAGE is needed or bounded: what a solver's refusal doesn't tell.

    Takes conda and PyPI names. Inside an environment with the metapackage: cogvideo-sat-env why PACKAGE.
    """
    from cogvideo_sat_env.spec.why import explain

    answer = explain(name)
    click.echo(json.dumps(answer.to_json(), indent=2) if as_json else answer.to_text(), nl=as_json)

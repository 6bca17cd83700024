"""`satenv doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import examples


@click.command(
    **examples("""
    satenv doctor                            the environment that is active, else cogvideo-sat
    satenv doctor -p /scratch/envs/sat       that prefix
    satenv doctor --level quick --json       for a job's start
    satenv doctor --only training.zero2      one check
    """)
)
@click.option("-p", "--prefix", type=click.Path(path_type=Path), help="Folder of the environment.")
@click.option("-n", "--name", help="Name of the environment.")
@click.option("--level", type=click.Choice(["quick", "full"]), default="full", show_default=True, help="How deep.")
@click.option("--only", multiple=True, metavar="ID", help="Only this check (repeat for several).")
@click.option("--skip", multiple=True, metavar="ID", help="Not this check (repeat for several).")
@click.option("--list", "listing", is_flag=True, help="List the checks and the failure that each catches.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def doctor(prefix, name, level, only, skip, listing, as_json) -> None:
    """Prove that an environment trains; say what is wrong and what to type when it doesn't."""
    from cogvideo_sat_env import doctoring

    text, code = doctoring.run_command(
        prefix=prefix, name=name, level=level, only=only, skip=skip, listing=listing, as_json=as_json
    )
    click.echo(text, nl=False)
    sys.exit(code)

"""`satenv stage`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cogvideo_sat_env.base.command_name import program_name
from cogvideo_sat_env.cli.options import JSON, UserPath, examples

# on another node: this program's folder, then the arguments
_NODE = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from cogvideo_sat_env.cluster.stage.command_line import main; "
)


@click.command(
    **examples("""
    satenv stage /shared/sat                  have the current release on this node, or on all nodes of the job
    satenv stage /shared/sat --how copy       unpacked on the node's disk, not mounted
    satenv stage /shared/sat --release        at the job's end
    /shared/sat/stage                         the same, where there is no satenv: . "$(/shared/sat/stage)"
    """)
)
@click.argument("source", metavar="ROOT|RELEASE|IMAGE", type=UserPath())
@click.option("--how", type=click.Choice(["auto", "mount", "copy", "shared"]), default="auto", show_default=True,
              help="One way only; auto: the first of them that works.")  # fmt: skip
@click.option("--release", is_flag=True, help="Undo it, when no other job uses it on the node.")
@click.option("--all", "everybody", is_flag=True, help="With --release: also when other jobs use it.")
@click.option("--here", is_flag=True, help="This node only, inside of a job, too.")
@JSON
def stage(source, how, release, everybody, here, as_json) -> None:
    """Have a deployed release on this node, or on all nodes of the job, and print what to source.

    Its image is copied to the node, compared, and mounted; else unpacked there; else the shared folder is used. Each
    way down is announced. A node does it once, however many ranks ask.
    """
    from cogvideo_sat_env.cluster.stage.command_line import answer

    package = str(Path(__file__).resolve().parents[2])
    node = [sys.executable, "-I", "-c", _NODE + "sys.exit(main('satenv stage', []))", package]
    flags = {"--release": release, "--all": everybody, "--here": here, "--json": as_json}
    given = [str(source), "--how", how, *(flag for flag, is_set in flags.items() if is_set)]
    sys.exit(answer(f"{program_name()} stage", node, given))

"""`satenv doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import examples

_FILE = click.Path(path_type=Path, dir_okay=False)


# The same options as `cogvideo-sat-env doctor` has inside an environment (doctor/commandline.py); a test holds the two
# equal.
@click.command(
    **examples("""
    satenv doctor                            the environment that is active, else cogvideo-sat
    satenv doctor -p /scratch/envs/sat       that prefix
    satenv doctor --level quick --json       for a job's start
    satenv doctor --level gpu                on a GPU node, after the full level elsewhere
    satenv doctor --only training.zero2      one check
    satenv doctor --only video --only data   two subjects
    satenv doctor --junit doctor.xml         for CI
    satenv doctor --advisories osv/          known vulnerabilities too
    satenv doctor --nodes 2 --ntasks 16      all together, and which host differs
    """)
)
@click.option("-p", "--prefix", type=click.Path(path_type=Path), help="Folder of the environment.")
@click.option("-n", "--name", help="Name of the environment.")
@click.option("--level", type=click.Choice(["quick", "full", "gpu"]), default="full", show_default=True,
              help="How deep: quick before a job, full for all, gpu for quick and all GPU checks.")  # fmt: skip
@click.option("--only", multiple=True, metavar="ID", help="Only this check or subject (repeat for several).")
@click.option("--skip", multiple=True, metavar="ID", help="Not this check or subject (repeat for several).")
@click.option("--advisories", type=click.Path(path_type=Path), metavar="PATH",
              help="Known vulnerabilities: an OSV JSON file, or a folder of them.")  # fmt: skip
@click.option("--config", type=_FILE, metavar="FILE", help="Settings of single checks: a JSON object.")
@click.option("--patience", type=float, default=1.0, metavar="FACTOR",
              help="Multiply the time limits, on a slow machine.")  # fmt: skip
@click.option("--nodes", type=int, metavar="N",
              help="On N nodes: inside a step of srun or torchrun, or started with srun.")  # fmt: skip
@click.option("--ntasks", type=int, metavar="M", help="As M processes [default: one a node].")
@click.option("--strict", is_flag=True, help="A warning counts as a failure.")
@click.option("--list", "listing", is_flag=True, help="List the checks and the failure that each catches.")
@click.option("--junit", type=_FILE, metavar="FILE", help="Write the report as JUnit XML, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def doctor(prefix, name, **options) -> None:
    """Prove that an environment trains; say what is wrong and what to type when it doesn't."""
    from cogvideo_sat_env.doctor.command import Request, answer, say
    from cogvideo_sat_env.doctor.find_prefix import find_prefix

    text, code = answer(Request(**options), lambda: find_prefix(prefix, name))
    say(text)
    sys.exit(code)

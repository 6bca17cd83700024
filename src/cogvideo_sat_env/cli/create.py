"""`satenv create`."""

from __future__ import annotations

import json
import sys

import click

from cogvideo_sat_env.cli.options import LOCK, MAX_FILE_SIZE, WAIT, UserPath, examples


@click.command(
    **examples("""
    satenv create                                   the environment cogvideo-sat, from wherever it can be had
    satenv create -p /scratch/envs/sat              into that prefix
    satenv create --source mirror=/data/mirror      from a mirror of the channels: a folder or an https:// address
    satenv create --source mirror=/data/mirror --source mirror=https://mirror.example.org/conda --source channel
    satenv create --source wheels                   where only a Python package index can be reached
    satenv create --lock cogvideo-sat-env-linux-64-cuda.conda-lock.yml     from a lock of your own
    satenv create --variant cpu -n sat-cpu          without CUDA
    satenv create --repair                          put right every file that isn't as it should be
    """)
)
@click.option("-p", "--prefix", type=UserPath(), help="Folder of the environment.")
@click.option("-n", "--name", help="Name of the environment [default: that of environment.yml].")
@click.option(
    "--source",
    "sources",
    multiple=True,
    default=["auto"],
    show_default="auto",
    metavar="auto|channel|mirror=WHERE|wheels",
    help="Where the bytes come from. auto: the lock's channels when they answer, else wheels. Mirrors and channel may "
    "be repeated: each file comes from the first that has it right.",
)
@LOCK
@MAX_FILE_SIZE
@click.option(
    "--variant",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="auto: cuda where there is an NVIDIA driver or Slurm, else cpu.",
)
@click.option("--platform", metavar="SUBDIR", help="conda subdir [default: this machine's].")
@click.option("--python", type=UserPath(), help="With wheels: the Python to build on [3.11 if there is one].")
@click.option("--replace", is_flag=True, help="Replace an environment of ours that was made from another lock.")
@click.option(
    "--repair", is_flag=True, help="Compare every file of the environment with its lock; put right what differs."
)
@click.option(
    "--verify",
    type=click.Choice(["changed", "full"]),
    default="changed",
    show_default=True,
    help="Hash again what of the package cache has changed since it was proven, or all of it.",
)
@click.option(
    "--allow-link-scripts",
    multiple=True,
    metavar="PACKAGE|all",
    help="Run the post-link scripts of a package; none is run otherwise, all are listed. May be repeated.",
)
@click.option(
    "--break-lock", is_flag=True, help="Take over the lock of a process on another host that has been silent for long."
)
@WAIT
@click.option("--no-doctor", is_flag=True, help="Don't run the doctor at the end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def create(
    prefix, name, sources, lock, variant, platform, python, replace, repair, verify, allow_link_scripts, break_lock,
    wait, no_doctor, as_json, quiet,
) -> None:  # fmt: skip
    """Create the environment: fetch, verify everything, link, prove.

    Every artefact's size and SHA-256 is checked before the first file is linked; the prefix is complete or absent.
    """
    from cogvideo_sat_env.base.progress import choose
    from cogvideo_sat_env.create import create as creation
    from cogvideo_sat_env.create.create import Request
    from cogvideo_sat_env.create.outcome import outcome_text
    from cogvideo_sat_env.install.job import Options

    request = Request(
        prefix=prefix,
        name=name,
        sources=sources,
        variant=variant,
        platform=platform,
        python=python,
        options=Options(
            replace=replace,
            repair=repair,
            full=verify == "full",
            break_lock=break_lock,
            allow_link_scripts=allow_link_scripts,
            wait=wait,
        ),
        lock=lock,
        doctor=not no_doctor,
    )
    outcome = creation.create(request, choose(json=as_json, quiet=quiet))
    if as_json:
        click.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        click.echo(outcome_text(outcome), nl=False)
    sys.exit(outcome.exit_code)

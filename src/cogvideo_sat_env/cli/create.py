"""`satenv create`."""

from __future__ import annotations

import click

from cogvideo_sat_env.cli import options
from cogvideo_sat_env.cli.options import UserPath, create_request, examples, show_outcome, source


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
@options.ENVIRONMENT
@source("auto")
@options.LOCK
@options.MAX_FILE_SIZE
@options.VARIANT
@click.option("--platform", metavar="SUBDIR", help="conda subdir [default: this machine's].")
@click.option("--python", type=UserPath(), help="With wheels: the Python to build on [3.11 if there is one].")
@click.option("--replace", is_flag=True, help="Replace an environment of ours that was made from another lock.")
@click.option(
    "--repair", is_flag=True, help="Compare every file of the environment with its lock; put right what differs."
)
@options.VERIFY
@options.INSTALLING
@options.OUTPUT
def create(as_json, progress, **given) -> None:
    """Create the environment: fetch, verify everything, link, prove.

    Every artefact's size and SHA-256 is checked before the first file is linked; the prefix is complete or absent.
    """
    from cogvideo_sat_env.create import create as creation

    show_outcome(creation.create(create_request(given), progress), as_json)

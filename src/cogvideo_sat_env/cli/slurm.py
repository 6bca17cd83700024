"""`satenv slurm`: job scripts for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cogvideo_sat_env.cli.options import BASES, ENVIRONMENT, JSON, UserPath, examples, show, together

_SITE = click.option(
    "--site", type=UserPath(dir_okay=False), metavar="FILE",
    help="What is true of the cluster [default: the file in SATENV_SITE].",
)  # fmt: skip
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a file that is there and differs.")
_JOB = together(
    click.option("--gpus-per-node", "gpus", type=int, default=1, show_default=True, metavar="G",
                 help="GPUs of each node; 0 runs on the CPU, a rank a node, for models that are small enough."),
    _SITE,
    click.option("--output", type=UserPath(file_okay=False), metavar="FOLDER",
                 help="The job's folder, seen by all nodes [default: sat-COMMAND in the site's scratch, or here]."),
    _OVERWRITE,
)  # fmt: skip
_SAT = click.option(
    "--sat", type=UserPath(), required=True, metavar="DIR", help="Your checkout of CogVideo, or its sat/."
)
_RUN = together(
    BASES,
    click.option("--nodes", type=int, default=1, show_default=True, metavar="N", help="Nodes."),
    click.option("--seed", type=int, default=42, show_default=True, help="Upstream's --seed."),
    click.option("--doctor", type=click.Choice(["quick", "full", "gpu", "none"]), default="quick", show_default=True,
                 help="The doctor's level on all nodes before the first step."),
    click.option("--submit", is_flag=True, help="Run sbatch, unless the run is known to fail."),
    click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF UPSTREAM'S PROGRAM]"),
    JSON,
)  # fmt: skip


@click.group(
    **examples("""
    satenv slurm site                     writes satenv-site.yml, a first site file
    satenv slurm train --sat ~/CogVideo --base configs/cogvideox_2b_lora.yaml --base configs/sft.yaml \\
        --nodes 2 --gpus-per-node 8 --site satenv-site.yml --submit
    satenv slurm sample --sat ~/CogVideo --base configs/cogvideox_2b_lora.yaml --base configs/inference.yaml
    satenv slurm shell --sat ~/CogVideo --site satenv-site.yml
    """)
)
def slurm() -> None:
    """Write job scripts for Slurm: readable, yours to edit, running upstream's own programs."""


def _make(kind: str, prefix, name, site, submit=False, as_json=False, doctor="none", **given: Any) -> None:
    from cogvideo_sat_env.cluster.slurm import site as sites
    from cogvideo_sat_env.cluster.slurm import write_job
    from cogvideo_sat_env.doctor.find_prefix import find_prefix, named_prefix

    facts = sites.find(site)
    if prefix is None and name is None and facts.root:
        prefix = Path(facts.root, "current")
    if prefix is None or not facts.stage:  # what is staged may be an image alone, no folder
        prefix = find_prefix(prefix, name, named_prefix)
    asked = write_job.Asked(kind, prefix, facts, doctor="" if doctor == "none" else doctor, **given)
    written = write_job.write(asked)
    if submit:
        written = write_job.submit(written)
    show(written, as_json)


@slurm.command("train", **examples("""
    satenv slurm train --sat ~/CogVideo --base configs/mine.yaml --base configs/sft.yaml --nodes 2 --gpus-per-node 8
    satenv slurm train --sat ~/CogVideo --base configs/mine.yaml --base configs/sft.yaml --site site.yml --submit
    satenv slurm train --sat ~/CogVideo --base tiny.yaml --gpus-per-node 0 --nodes 2     a trial on two CPUs
    """))  # fmt: skip
@ENVIRONMENT
@_SAT
@_JOB
@click.option(
    "--resume", type=UserPath(), metavar="FOLDER", help="Go on from another job's run: its folder below `save`."
)
@_RUN
def train(**given) -> None:
    """Write a job that trains on N nodes: train_video.py under DeepSpeed, one rank a GPU.

    The doctor looks at all nodes first. Before its time limit, or at a preemption, the job saves, is requeued and goes
    on from its newest whole checkpoint, with the same losses as without the break.
    """
    _make("train", **given)


@slurm.command("sample", **examples("""
    satenv slurm sample --sat ~/CogVideo --base configs/mine.yaml --base configs/inference.yaml --gpus-per-node 4
    """))  # fmt: skip
@ENVIRONMENT
@_SAT
@_JOB
@_RUN
def sample(**given) -> None:
    """Write a job that samples: sample_video.py, the prompts of input_file shared out among the GPUs."""
    _make("sample", **given)


@slurm.command("shell", **examples("""
    satenv slurm shell --site site.yml                      then: bash sat-shell/shell.sh
    bash sat-shell/shell.sh python -c 'import sat'          one command
    """))  # fmt: skip
@ENVIRONMENT
@click.option("--sat", type=UserPath(), metavar="DIR", help="Your checkout of CogVideo: where the shell starts.")
@_JOB
@JSON
def shell(**given) -> None:
    """Write a script that opens a shell in the environment, on a node of its own."""
    _make("shell", **given)


@slurm.command("site", **examples("""
    satenv slurm site                      writes satenv-site.yml
    satenv slurm site --output /dev/stdout prints it
    """))  # fmt: skip
@click.option("--output", default="satenv-site.yml", show_default=True, metavar="FILE", help="The file to write, or -.")
@_OVERWRITE
def site(output, overwrite) -> None:
    """Write a first site file by asking sinfo, scontrol, module and the file systems.

    What can't be known is a comment, to be filled in.
    """
    from cogvideo_sat_env.cluster.slurm import ask

    click.echo(ask.write_site(output, overwrite), nl=False)

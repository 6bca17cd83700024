"""`satenv sat`: the user's own checkout of CogVideo."""

from __future__ import annotations

import sys

import click

from cogvideo_sat_env.cli.options import BASES, ENVIRONMENT, JSON, UserPath, examples, show

_DIR = click.argument("folder", metavar="DIR", type=UserPath())


@click.group(
    **examples("""
    satenv sat check ~/CogVideo --base configs/cogvideox_2b_lora.yaml --base configs/sft.yaml
    satenv sat fix ~/CogVideo --base configs/cogvideox_2b_lora.yaml --base configs/sft.yaml
    satenv sat fix ~/CogVideo --code             small patches to its code and scripts, too
    satenv sat fix ~/CogVideo --code --undo      takes them out again
    satenv sat run ~/CogVideo train_video.py --base configs/mine.yaml configs/sft.yaml
    """)
)
def sat() -> None:
    """Look at your checkout of CogVideo and correct what upstream no longer does.

    `doctor --sat` runs it, too.
    """


@sat.command("check", **examples("satenv sat check ~/CogVideo --base configs/sft.yaml"))
@_DIR
@BASES
@JSON
def check(folder, bases, as_json) -> None:
    """Read the checkout, its scripts and the YAMLs of a run; name what will fail, with file and line."""
    from cogvideo_sat_env.doctor.sat import check_and_fix

    found = check_and_fix.check(folder, bases)
    show(found, as_json)
    sys.exit(found.exit_code)


@sat.command("fix", **examples("satenv sat fix ~/CogVideo --base configs/sft.yaml     writes configs/sft-fixed.yaml"))
@_DIR
@BASES
@click.option("--out", type=UserPath(file_okay=False), metavar="FOLDER",
              help="Where the corrected copies go [default: beside each YAML, as NAME-fixed.yaml].")  # fmt: skip
@click.option("--code", is_flag=True, help="Apply our patches to code, scripts and shipped YAMLs of the checkout.")
@click.option("--undo", is_flag=True, help="With --code: take the patches out.")
@JSON
def fix(folder, bases, out, code, undo, as_json) -> None:
    """Write corrected copies of the YAMLs; with --code apply small patches, which git can take out again."""
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.doctor.sat import check_and_fix

    patches = project_root() / "recipe" / "patches" / "cogvideo" if code or undo else None
    found = check_and_fix.fix(folder, bases, out=out, patches=patches, undo=undo)
    show(found, as_json)
    sys.exit(found.exit_code)


@sat.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    **examples("""
    satenv sat run ~/CogVideo train_video.py --base configs/mine.yaml configs/sft.yaml --seed 42
    satenv sat run -p /scratch/envs/sat ~/CogVideo sample_video.py --base configs/mine.yaml configs/inference.yaml
    """),
)  # fmt: skip
@ENVIRONMENT
@_DIR
@click.argument("entry", metavar="ENTRY")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(prefix, name, folder, entry, arguments) -> None:
    """Run ENTRY of the checkout (train_video.py, sample_video.py) in the environment, with its exit code.

    In one process, as upstream's finetune_single_gpu.sh does. Without a GPU it runs on the CPU: for a model that is
    small enough, to try configs and data.
    """
    from cogvideo_sat_env.doctor.find_prefix import find_prefix, named_prefix
    from cogvideo_sat_env.doctor.sat.run_entry import run as run_entry

    sys.exit(run_entry(find_prefix(prefix, name, named_prefix), folder, entry, arguments))

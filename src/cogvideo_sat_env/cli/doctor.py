"""`satenv doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cogvideo_sat_env.cli.options import UserPath, examples
from cogvideo_sat_env.doctor.command_options import OPTIONS, DoctorOptions, Option


def _click_option(option: Option) -> click.Option:
    declarations = [*option.flags, option.name]
    if option.kind is bool:
        return click.Option(declarations, is_flag=True, help=option.help)
    kind = option.kind
    if isinstance(kind, tuple):
        kind = click.Choice(kind)
    elif kind is Path:
        kind = UserPath(dir_okay=not option.is_file)
    return click.Option(
        declarations, type=kind, multiple=option.repeat, default=option.default,
        show_default=option.default is not None, metavar=option.metavar, help=option.help,
    )  # fmt: skip


def _run(**options) -> None:
    from cogvideo_sat_env.doctor.command import answer
    from cogvideo_sat_env.doctor.find_prefix import named_prefix

    text, code = answer(DoctorOptions(**options), named_prefix)
    print(text, end="")
    sys.exit(code)


doctor = click.Command(
    "doctor",
    callback=_run,
    params=[_click_option(option) for option in OPTIONS],
    help="Prove that an environment trains; say what is wrong and what to type when it doesn't.",
    **examples("""
    satenv doctor                            the environment that is active, else cogvideo-sat
    satenv doctor -p /scratch/envs/sat       that prefix
    satenv doctor --level quick --json       for a job's start
    satenv doctor --level gpu                on a GPU node, after the full level elsewhere
    satenv doctor --python python3 --level gpu
                                             any Python that has torch: a module, a container, a venv
    satenv doctor --only training.zero2      one check
    satenv doctor --only video --only data   two subjects
    satenv doctor --junit doctor.xml         for CI
    satenv doctor --advisories osv/          known vulnerabilities too
    satenv doctor --nodes 2 --ntasks 16      all together, and which host differs
    satenv doctor --sat ~/CogVideo --base configs/cogvideox_2b_lora.yaml --base configs/sft.yaml
                                             your own run: files, data, and three shrunk steps of it
    satenv doctor --explain slurm-123.out    which known failure is in that log
    """),
)

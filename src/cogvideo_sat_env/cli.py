"""The command line: commands and options, nothing else. Each command imports what it needs when it runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import click

from cogvideo_sat_env import __version__
from cogvideo_sat_env.errors import EXIT_CODES, SatenvError

_EXIT_TEXT = "\n".join(f"  {code:<3} {text}" for code, text in EXIT_CODES.items())


def _examples(text: str, **extra: str) -> dict[str, str]:
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line.strip()}" for line in text.strip().splitlines()), **extra}


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExit codes:\n{_EXIT_TEXT}",
)
@click.version_option(__version__, prog_name="satenv")
def cli() -> None:
    """Make, verify and prove the environment for fine-tuning CogVideoX with SAT.

    \b
    satenv create            make the environment from the committed lock and prove that it trains
    satenv doctor            prove it again, later or in full
    satenv check             do spec, ledger, locks and rendered files agree?
    satenv lock              make the locks anew
    """


@cli.command(
    **_examples("""
    satenv create                                   the environment cogvideo-sat, from wherever it can be had
    satenv create -p /scratch/envs/sat              into that prefix
    satenv create --source mirror=/data/mirror      from a mirror of the channels: a folder or an https:// address
    satenv create --source wheels                   where only a Python package index can be reached
    satenv create --variant cpu -n sat-cpu          without CUDA
    """)
)
@click.option("-p", "--prefix", type=click.Path(path_type=Path), help="Folder of the environment.")
@click.option("-n", "--name", help="Name of the environment [default: that of environment.yml].")
@click.option(
    "--source",
    default="auto",
    show_default=True,
    metavar="auto|channel|mirror=WHERE|wheels",
    help="Where the bytes come from. auto: the lock's channels when they answer, else wheels.",
)
@click.option(
    "--variant",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="auto: cuda where there is an NVIDIA driver or Slurm, else cpu.",
)
@click.option("--platform", metavar="SUBDIR", help="conda subdir [default: this machine's].")
@click.option(
    "--python", type=click.Path(path_type=Path), help="With wheels: the Python to build on [3.11 if there is one]."
)
@click.option("--replace", is_flag=True, help="Replace an environment of ours that was made from another lock.")
@click.option("--no-doctor", is_flag=True, help="Don't run the doctor at the end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def create(prefix, name, source, variant, platform, python, replace, no_doctor, as_json, quiet) -> None:
    """Create the environment: fetch, verify everything, link, prove.

    Every artefact's size and SHA-256 is checked before the first file is linked; the prefix is complete or absent.
    """
    from cogvideo_sat_env import create as creation
    from cogvideo_sat_env.progress import choose

    progress = choose(json=as_json, quiet=quiet)
    outcome = creation.create(
        prefix=prefix,
        name=name,
        source=source,
        variant=variant,
        platform=platform,
        python=python,
        replace_old=replace,
        doctor=not no_doctor,
        progress=progress,
    )
    if as_json:
        click.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        click.echo(outcome.to_text(), nl=False)
    sys.exit(outcome.exit_code)


@cli.command(
    **_examples("""
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


@cli.command(
    **_examples("""
    satenv check              every disagreement, with the command that mends it
    satenv check --json       for scripts
    """)
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def check(as_json) -> None:
    """Check offline that spec, floors, ledger, locks and rendered files agree, and that the locks are sound."""
    from dataclasses import asdict

    from cogvideo_sat_env.check import check_project
    from cogvideo_sat_env.paths import project_root

    findings = check_project(project_root())
    if as_json:
        click.echo(json.dumps({"ok": not findings, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.file}: {finding.message}\n    mend: {finding.mend}")
        click.echo(
            f"{len(findings)} disagreement{'s' if len(findings) != 1 else ''}"
            if findings
            else "spec, floors, ledger, locks and rendered files agree"
        )
    sys.exit(1 if findings else 0)


@cli.command(
    **_examples("""
    satenv lock                                    every platform and variant, from the channels
    satenv lock --frozen ../shared/conda-channels  against frozen channel metadata
    satenv lock --update transformers              move one package and what it forces, nothing else
    satenv lock --only linux-64-cuda --conda micromamba
    satenv lock --wheels                           the wheel locks, for sites without conda channels
    """)
)
@click.option("--only", multiple=True, metavar="VARIANT", help="Only this variant, e.g. linux-64-cpu.")
@click.option("--render", is_flag=True, help="Only write the generated files anew from the present locks.")
@click.option(
    "--frozen",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Solve against the channel metadata in this folder; the lock's URLs are the channels' own.",
)
@click.option("--conda", metavar="PATH", help="Your conda, mamba or micromamba in place of rattler.")
@click.option("--update", multiple=True, metavar="NAME", help="Update this package, keep the others.")
@click.option("--wheels", is_flag=True, help="Make the wheel locks instead (asks the package index).")
@click.option("--python", "pythons", multiple=True, metavar="PATH", help="With --wheels: lock for this interpreter.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def lock(only, render, frozen, conda, update, wheels, pythons, as_json, quiet) -> None:
    """Make conda-lock.yml with conda-lock, and everything that is rendered from it."""
    from cogvideo_sat_env.lock import command
    from cogvideo_sat_env.paths import project_root
    from cogvideo_sat_env.progress import choose

    progress = choose(json=as_json, quiet=quiet)
    root = project_root()
    if render and (only or frozen or conda or update or wheels):
        raise click.UsageError("--render works from the present locks: it takes none of the other options")
    if render:
        changed = command.render_project(root)
    elif wheels:
        if only or frozen or conda or update:
            raise click.UsageError("--wheels asks the package index alone: it takes none of the other options")
        changed = command.lock_wheels(root, pythons=[Path(python) for python in pythons], progress=progress)
    else:
        changed = command.lock_project(
            root, wanted=only, frozen=frozen, conda=command.find_conda(conda), update=update, progress=progress
        )
    if as_json:
        click.echo(json.dumps({"changed": changed}, indent=2))
    else:
        click.echo("".join(f"wrote {path}\n" for path in changed) or "nothing changed\n", nl=False)


def main() -> None:
    """Run the command line; every error of ours becomes one message and its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up as on Ctrl-C when a batch system ends us
    try:
        code = _run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # the reader of a pipe has seen enough
    # py-rattler 0.28 can crash while the interpreter shuts down, which would change the exit code
    os._exit(code)


def _run() -> int:
    try:
        cli.main(prog_name="satenv", standalone_mode=False)
    except SatenvError as error:
        _report(error)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("satenv: interrupted", err=True)
        return 130
    except BrokenPipeError:
        return 0
    except Exception:  # a fault of ours: the trace is what a report needs
        traceback.print_exc()
        click.echo("satenv: this is a fault of the program; please report it with the lines above", err=True)
        return 70
    return 0


def _report(error: SatenvError) -> None:
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}, indent=2))
        return
    colour = None if not os.environ.get("NO_COLOR") else False  # None: on a terminal only
    click.echo(click.style("satenv: ", fg="red", bold=True) + error.message, err=True, color=colour)
    if error.remedy:
        click.echo(f"  {error.remedy}", err=True)

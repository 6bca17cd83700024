"""The command line: commands and options, nothing else. Each command imports what it needs when it runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

import click

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import EXIT_CODES, SatenvError
from cogvideo_sat_env.base.stdio import fill_closed
from cogvideo_sat_env.cli.build import build
from cogvideo_sat_env.cli.bundle import bundle
from cogvideo_sat_env.cli.check import check
from cogvideo_sat_env.cli.create import create
from cogvideo_sat_env.cli.doctor import doctor
from cogvideo_sat_env.cli.lock import lock
from cogvideo_sat_env.cli.mirror import mirror
from cogvideo_sat_env.cli.plan import plan
from cogvideo_sat_env.cli.publish import publish
from cogvideo_sat_env.cli.update import undo, update
from cogvideo_sat_env.cli.why import why

_EXIT_TEXT = "\n".join(f"  {code:<3} {text}" for code, text in EXIT_CODES.items())


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExit codes:\n{_EXIT_TEXT}",
)
@click.version_option(__version__, prog_name="satenv")
def cli() -> None:
    """Make, verify and prove the environment for fine-tuning CogVideoX with SAT.

    \b
    satenv create            make the environment from the committed lock and prove that it trains
    satenv update            bring it to the present lock; satenv undo goes back
    satenv doctor            prove it again, later or in full
    satenv check             do spec, ledger, locks, rendered files and recipe agree?
    satenv lock              make the locks anew
    satenv mirror            the lock's channels and pip files in a folder, for sites without internet
    satenv bundle            the same in one file that installs itself: pack, verify, list, install, diff
    satenv plan              how much GPU memory fine-tuning needs
    satenv build             build the metapackage and its pieces into a channel
    satenv publish           upload a built channel: to a folder, S3 or a package server
    satenv why               why a package is bounded, with evidence and proof
    """


for _command in (create, update, undo, doctor, check, lock, mirror, bundle, plan, publish, why, build):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; every error of ours becomes one message and its exit code."""
    fill_closed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up as on Ctrl-C when a batch system ends us
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # a lost terminal, unless under nohup
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
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

"""The command line: commands and options, nothing else. Each command imports what it needs when it runs."""

from __future__ import annotations

import os

import click

from cogvideo_sat_env.base.command_name import program_name
from cogvideo_sat_env.base.errors import EXIT_CODES
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.cli.build import build
from cogvideo_sat_env.cli.bundle import bundle
from cogvideo_sat_env.cli.cache import cache
from cogvideo_sat_env.cli.check import check
from cogvideo_sat_env.cli.completion import VARIABLE, completion
from cogvideo_sat_env.cli.create import create
from cogvideo_sat_env.cli.doctor import doctor
from cogvideo_sat_env.cli.freeze import freeze
from cogvideo_sat_env.cli.lock import lock
from cogvideo_sat_env.cli.mirror import mirror
from cogvideo_sat_env.cli.options import examples
from cogvideo_sat_env.cli.plan import plan
from cogvideo_sat_env.cli.publish import publish
from cogvideo_sat_env.cli.sat import sat
from cogvideo_sat_env.cli.update import undo, update
from cogvideo_sat_env.cli.version import show
from cogvideo_sat_env.cli.why import why

_EXIT_TEXT = "\n".join(f"  {code:<3} {text}" for code, text in EXIT_CODES.items())


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("""
    satenv create            make the environment from the committed lock; the doctor's quick level checks it
    satenv doctor            prove that it trains, one check after the other
    satenv update            bring it to the present lock; undo goes back
    satenv create --help     more examples, for each command
    """)["epilog"]
    + f"\n\n\b\nExit codes:\n{_EXIT_TEXT}",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=show,
              help="Show version, commit and day of the lock.")  # fmt: skip
def cli() -> None:
    """Make the environment for fine-tuning CogVideoX with SAT from a lock, verify it, and prove that it trains."""


for _subcommand in (
    create, update, undo, doctor, check, lock, freeze, mirror, bundle, plan, publish, why, build, sat, cache,
    completion,
):  # fmt: skip
    cli.add_command(_subcommand)


def main() -> None:
    """Run the command line and end the process."""
    code = run("satenv", _command)
    # py-rattler 0.28 can crash while the interpreter shuts down, which would change the exit code
    os._exit(code)


def _command() -> int:
    try:
        cli.main(prog_name=program_name(), standalone_mode=False, complete_var=VARIABLE)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except click.ClickException as error:
        error.show()
        return 2
    return 0

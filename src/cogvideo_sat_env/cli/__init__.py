"""The command line: commands and options, nothing else. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module

import click

from cogvideo_sat_env.base.command_name import program_name
from cogvideo_sat_env.base.errors import EXIT_CODES
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.cli.options import examples
from cogvideo_sat_env.cli.version import show

_EXIT_TEXT = "\n".join(f"  {code:<3} {text}" for code, text in EXIT_CODES.items())

COMPLETION = "_SATENV_COMPLETE"  # asks the program itself for what may follow: set by completion's scripts alone
_COMMANDS = (
    "attest", "audit", "build", "bundle", "cache", "check", "completion", "create", "deploy", "diff",
    "doctor", "freeze", "freshen", "image", "lock", "manifest", "mirror", "plan", "publish", "releases", "report",
    "sat", "sbom", "size", "slurm", "stage", "undo", "update", "verify", "why",
)  # fmt: skip
_MODULES = {"undo": "update"}  # of a command, where it has another's name


class Commands(Mapping[str, click.Command]):
    """The commands, each imported when it is asked for: all of them take longer than Python and click."""

    def __getitem__(self, name: str) -> click.Command:
        if name not in _COMMANDS:
            raise KeyError(name)
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, name)}"), name)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


@click.group(
    commands=Commands(),
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


def main() -> None:
    """Run the command line and end the process."""
    code = run("satenv", _command)
    # py-rattler 0.28 can crash while the interpreter shuts down, which would change the exit code
    os._exit(code)


def _command() -> int:
    try:
        cli.main(prog_name=program_name(), standalone_mode=False, complete_var=COMPLETION)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except click.ClickException as error:
        error.show()
        return 2
    return 0

"""The command as the user started it, so that what a message tells them to type works as it stands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys

METAPACKAGE = "cogvideo-sat-env"
CHECKOUT = "./scripts/satenv"
_METAPACKAGE_COMMANDS = {"doctor", "version", "why"}  # what the metapackage's program has of the project's commands


def satenv(command: str, *values: object) -> str:
    """Return `command` with `values`, quoted for a shell, after the name that the program was started by.

    satenv("create --repair -p", prefix) -> ./scripts/satenv create --repair -p '/my envs/sat'
    """
    name = program_name()
    if os.path.basename(name) == METAPACKAGE and command.split()[0] not in _METAPACKAGE_COMMANDS:
        name = CHECKOUT  # making and locking environments is done from the project
    return " ".join([name, command, *(shlex.quote(str(value)) for value in values)])


def program_name() -> str:
    """Return what to type for this program: its name where PATH finds it, else its path as it was given.

    A caller that isn't a file (a bundle: `python3 sat.pyz satenv`) puts its words, with a space, into sys.argv[0].
    """
    called = sys.argv[0] if sys.argv else ""
    name = os.path.basename(called)
    if " " in name and not os.path.exists(called):
        return called
    if name not in ("satenv", METAPACKAGE):
        return CHECKOUT  # from a test, or `python -m` inside a checkout
    found = shutil.which(name)
    if found and (called == name or os.path.realpath(found) == os.path.realpath(called)):
        return name
    return shlex.quote(called if "/" in called else f"./{called}")


def spell_out(text: str) -> str:
    """Return a text of the data files or of a check with the program's name in the place of `{satenv}`."""
    return re.sub(r"\{satenv\} ([a-z]+)", lambda found: satenv(found[1]), text)

"""Standard streams that are closed, as cron and daemons start programs."""

from __future__ import annotations

import os
import sys


def fill_closed() -> None:
    """Put /dev/null in the place of closed standard streams. Call before any file is opened.

    The next file would get a closed one's number, and the first word to be printed would end the program.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - lives on

"""The edge of every command line of the project: however a command ends, there is one message and an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from cogvideo_sat_env.base import machine, stdio
from cogvideo_sat_env.base.errors import SatenvError

FAULT = 70
INTERRUPTED = 130


def run(name: str, command: Callable[[], int | None]) -> int:
    """Run `command` as the program `name` and return the exit code (errors.EXIT_CODES).

    Errors of ours, states of the machine and signals become words on standard error, with --json an object on standard
    output. Only what is a fault of the program has a traceback.
    """
    stdio.prepare()
    _catch_signals()
    try:
        try:
            code = command() or 0
        except BaseException as error:
            code = _end(name, error)
        lost = stdio.lost_output()
        if lost is not None:
            remedy = machine.REMEDIES.get(lost.errno or 0, "run it again for its report")
            _say(name, f"standard output can't be written: {lost.strerror}", f"the work itself is done; {remedy}")
            code = code or SatenvError.exit_code
    except KeyboardInterrupt:  # again, while the first one was reported
        code = INTERRUPTED
    return code


def _catch_signals() -> None:
    """Clean up as on Ctrl-C when a batch system, a limit or a lost terminal ends us; what nohup ignores stays so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, handler in ((signal.SIGTERM, _exit), (signal.SIGHUP, _exit), (signal.SIGXCPU, _limit)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _limit(number: int, frame: FrameType | None) -> None:
    raise SatenvError("the limit of processor time is reached", "ulimit -t unlimited")


def _end(name: str, error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAULT * (error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    known = error if isinstance(error, SatenvError) else machine.in_words(error)
    if known is None:  # a fault of ours: the trace is what a report needs
        traceback.print_exception(error)
        print(f"{name}: this is a fault of the program; please report it with the lines above", file=sys.stderr)
        return FAULT
    limit = machine.limit(error)  # "too many open files" isn't helped by what the message thought of
    remedy, code = (limit, SatenvError.exit_code) if limit else (known.remedy, known.exit_code)
    if os.environ.get("SATENV_TRACEBACK"):
        traceback.print_exception(error)
    if "--json" in sys.argv:
        found = {"error": known.message, "remedy": remedy, "exit_code": code}
        print(json.dumps(found, indent=2))
    else:
        _say(name, known.message, remedy)
    return code


def _say(name: str, message: str, remedy: str | None) -> None:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[31m\033[1m{name}: \033[0m{message}" if coloured else f"{name}: {message}", file=sys.stderr)
    if remedy:
        print(f"  {remedy}", file=sys.stderr)

"""Standard streams that are closed, full or of another encoding: no word that is printed ends the program."""

from __future__ import annotations

import errno
import io
import os
import select
import sys


def prepare() -> None:
    """Make the standard streams safe to print to; call before any file is opened. See `lost_output` for the end."""
    fill_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        try:
            if stream.fileno() != number:
                continue  # a test's or an embedding program's own
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
        raw = io.BufferedWriter(_Stream(number, "wb", closefd=False))  # type: ignore[type-var]
        lines = number == 2 or stream.isatty()
        setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=lines))


def lost_output() -> OSError | None:
    """Return why not all of standard output could be written, None where it was or where its reader has seen enough."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:  # one that isn't ours
            return error if isinstance(error, OSError) else None
    failure = raw.failure if isinstance(raw, _Stream) else None
    return None if failure is None or failure.errno == errno.EPIPE else failure


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


class _Stream(io.FileIO):
    """A stream whose failure is kept until the end: work that is done isn't thrown away because of a full disk."""

    failure: OSError | None = None

    def write(self, data: bytes) -> int:  # type: ignore[override]
        while True:
            try:
                written = super().write(data)
            except OSError as error:
                self.failure = self.failure or error
                return len(data)
            if written is not None:
                return written
            select.select([], [self.fileno()], [])  # another process made the terminal non-blocking

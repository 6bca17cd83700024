"""Errors that reach the user: what was found, what was expected, what to do; and the exit code of each kind."""

from __future__ import annotations

from cogvideo_sat_env.base.printable import printable


class SatenvError(Exception):
    """One clear error for the user.

    `message` names the file or address and what was expected; `remedy` is what to type or do next. Control characters
    that a server or a file brought into them are escaped. The class itself stands for a state of the machine; its
    subclasses have exit codes of their own.
    """

    exit_code = 9

    def __init__(self, message: str, remedy: str | None = None) -> None:
        self.message = printable(message)
        self.remedy = None if remedy is None else printable(remedy)
        super().__init__(self.message)


class InputError(SatenvError):
    """A file of the user's is missing, malformed, or for another platform."""

    exit_code = 3


class VerificationError(SatenvError):
    """Bytes are not what the lock says: wrong hash, wrong size, truncated."""

    exit_code = 4


class SourceError(SatenvError):
    """A channel, mirror or index can't be reached, or lacks a file."""

    exit_code = 5


class PrefixError(SatenvError):
    """The prefix can't be used: foreign, not writable, locked by another process, no space left."""

    exit_code = 6


class SolveError(SatenvError):
    """The specs can't be satisfied together, or the solver itself failed."""

    exit_code = 7


class MissingToolError(SatenvError):
    """A program that this command needs is not on this machine."""

    exit_code = 8


EXIT_CODES = {
    0: "all is well",
    1: "the answer is no: a doctor check failed, `check` found a disagreement, `diff` or `manifest --check` a "
    "difference, `audit` an advisory; nothing else",
    2: "wrong usage of the command line",
    InputError.exit_code: "a file is missing, malformed, or for another platform",
    VerificationError.exit_code: "bytes differ from the lock (hash, size, truncation)",
    SourceError.exit_code: "a channel, mirror or package index can't be reached, or lacks a file",
    PrefixError.exit_code: "the prefix can't be used (foreign, not writable, busy, no space)",
    SolveError.exit_code: "the specs can't be satisfied",
    MissingToolError.exit_code: "a needed program is missing",
    SatenvError.exit_code: "the machine: a full disk or stream, a limit, memory, permissions, a process that was ended",
    70: "a fault of this program itself",
    130: "interrupted",
}

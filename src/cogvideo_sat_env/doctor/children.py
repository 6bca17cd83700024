"""A child process with a limit of its own: whatever it does, the doctor goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LAST = 1.0  # seconds for a killed process to go; one that waits inside a driver can't be killed


@dataclass(frozen=True)
class Child:
    """How a child ended: its exit code (None: not within the limit), what it printed, why it couldn't be started."""

    code: int | None
    stdout: str = ""
    stderr: str = ""
    problem: str | None = None


def run_child(
    command: Sequence[str], limit: float, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Child:
    """Run `command` for at most `limit` seconds; it and all that it started are killed then, and not waited for."""
    try:
        process = subprocess.Popen(
            command, env=None if env is None else dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Child(127, problem=f"{command[0]} can't be started: {error.strerror or error}")
    try:
        stdout, stderr = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        stdout, stderr = _abandon(process)
        return Child(None, stdout, stderr, f"{os.path.basename(command[0])} doesn't answer within {limit:.0f} s")
    except BaseException:  # interrupted: no process outlives the doctor
        _abandon(process)
        raise
    return Child(process.returncode, stdout, stderr)


def _abandon(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone by itself just now
        pass
    try:
        return process.communicate(timeout=_LAST)
    except subprocess.TimeoutExpired:
        return "", ""

"""The ways in which a probe's process can end, in words."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.doctor.check_result import STATUSES

_CANNOT_LOAD = 70  # checks/_harness.py
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Expired): ")


def read_outcome(path: Path) -> dict[str, Any] | None:
    """Return a probe's answer, or None when there is none that can be understood."""
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(outcome, dict) and outcome.get("status") in STATUSES
    if not known or not outcome.get("finding") or not isinstance(outcome.get("seconds"), (int, float)):
        return None
    return outcome  # type: ignore[no-any-return]


def how_it_ended(code: int, output: str) -> str:
    """Return what a process with this exit code did, and its last words, in one line."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        crash = {"SIGSEGV": " (segmentation fault)", "SIGKILL": " (out of memory?)", "SIGABRT": " (aborted)"}
        return f"crashed with {name}{crash.get(name, '')}{last_words(output)}"
    if code == _CANNOT_LOAD:
        return f"this check can't be loaded{last_words(output)}"
    return f"ended with exit code {code} and without a result{last_words(output, crashed=False)}"


def last_words(output: str, crashed: bool = True) -> str:
    """Return the line of the output that tells most, after a colon; nothing when there is none.

    A process that didn't crash itself tells it in its last exception: a crash in the output was a child's.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    raised = [] if crashed else [line for line in lines if _EXCEPTION.match(line)][-1:]
    # the fault handler's list of threads and extension modules comes after the line that says what happened
    telling = raised or [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
    return f": {telling[0][:300]}" if telling else ""


def stale_lock(env: Mapping[str, str]) -> Path | None:
    """Return torch's oldest compilation lock file, if one is there: torch waits for its end without limit."""
    named = env.get("TORCH_EXTENSIONS_DIR")
    root = Path(named) if named else Path(env.get("HOME", "/nonexistent"), ".cache", "torch_extensions")
    locks = [*root.glob("*/lock"), *root.glob("*/*/lock")]
    return min(locks, key=lambda path: path.stat().st_mtime) if locks else None

"""What probes work with: the request they get and the outcome they return."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class ProbeOutcome:
    """A probe's answer. `ledger` names entries of the breakage ledger that explain a failure."""

    status: str
    finding: str
    remedy: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    ledger: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeRequest:
    """What the runner hands to a probe.

    workdir  an empty folder of this check's own
    shared   a folder that all checks of one run share
    inputs   requirements, bounds, what activation sets, the user's own variables, receipt, GPU facts
    """

    workdir: Path
    shared: Path
    inputs: dict[str, Any]

    @property
    def requirements(self) -> list[dict[str, Any]]:
        """The requirements that this environment must have."""
        return [item for item in self.inputs["requirements"] if not (self.data_only and item.get("training"))]

    @property
    def restore(self) -> str:
        """What to type to have the environment as it was made."""
        return str(self.inputs["restore"])

    @property
    def conda(self) -> bool:
        """True where conda's packages can be installed: not in a plain venv, nor in an environment made of wheels."""
        return bool(self.inputs["conda"])

    @property
    def options(self) -> dict[str, Any]:
        """What the user set for single checks, by "<subject>.<what>"."""
        return self.inputs.get("options") or {}

    @property
    def data_only(self) -> bool:
        """True in an environment that only prepares data, where SAT is left out."""
        return bool(self.inputs.get("data_only"))


def passed(finding: str, **details: Any) -> ProbeOutcome:
    """All is as it must be."""
    return ProbeOutcome("passed", finding, None, details)


def failed(finding: str, remedy: str | None = None, *, ledger: tuple[str, ...] = (), **details: Any) -> ProbeOutcome:
    """Training, sampling or data preparation would not work."""
    return ProbeOutcome("failed", finding, remedy, details, ledger)


def warning(finding: str, remedy: str | None = None, *, ledger: tuple[str, ...] = (), **details: Any) -> ProbeOutcome:
    """It works here, and may not elsewhere."""
    return ProbeOutcome("warning", finding, remedy, details, ledger)


def not_run(finding: str, **details: Any) -> ProbeOutcome:
    """There is nothing here to check."""
    return ProbeOutcome("not_run", finding, None, details)


def some(items: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """Return the first `most` of `items`, and how many there are beside them."""
    more = f"{between.rstrip()} and {len(items) - most} more".lstrip(",") if len(items) > most else ""
    return between.join(items[:most]) + more


def run_program(command: Sequence[str], seconds: float, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program without input unless `more` (of subprocess.run) has some; what it prints comes as text.

    One that can't be started (127) or doesn't end in time (124) is a failure in words, as its last output.
    """
    source = {} if "input" in more else {"stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(
            command, capture_output="stdout" not in more, text=True, errors="replace", timeout=seconds, check=False,
            **source, **more,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        code, words = 124, f"error: {command[0]} doesn't end within {seconds:.0f} s"
    except OSError as error:
        code, words = 127, f"error: {command[0]}: {error.strerror}"
    return subprocess.CompletedProcess(command, code, words, words)


def run_joined(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program as run_program does, with its errors in its output, where they were printed."""
    return run_program(command, seconds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


_LOADER_ERRORS = re.compile(
    r"undefined symbol|cannot open shared object file|symbol lookup error|wrong ELF class|invalid ELF header"
    r"|GLIBC(?:XX)?_[\d.]+' not found|CXXABI_[\d.]+' not found|Library not loaded|DLL load failed"
    r"|compiled using NumPy 1\.x cannot be run|numpy\.dtype size changed|Failed to load image Python extension",
)
_IGNORED = re.compile(r"from LD_PRELOAD cannot be preloaded")  # identity.pollution names it
_NO_DRIVER = re.compile(r"lib(?:cuda|nvidia-ml)\.so")  # belongs to the GPU driver: rightly absent without a GPU


def loader_errors(output: str, has_gpu: bool) -> list[str]:
    """Return the lines of `output` in which a dynamic loader or an ABI check complains."""
    found = [line.strip() for line in output.splitlines() if _LOADER_ERRORS.search(line) and not _IGNORED.search(line)]
    return found if has_gpu else [line for line in found if not _NO_DRIVER.search(line)]


def last_error(output: str) -> str:
    """Return the line of `output` that names the error: the last that looks like an exception, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in reversed(lines):
        if re.match(r"[\w.]*(?:Error|Exception|Warning|Interrupt|Exit|NotFound)\b.*", line):
            return line[:400]
    return lines[-1][:400] if lines else "no output"


def one_line(error: BaseException) -> str:
    """Return an exception as one line: its type and the start of its message."""
    message = str(error)
    if "Original Traceback" in message:  # torch sends a worker's whole traceback as the message
        return last_error(message)
    text = " ".join(message.split())
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__

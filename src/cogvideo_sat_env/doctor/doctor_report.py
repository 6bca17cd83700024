"""The doctor's report: typed results, JSON with a stable schema, text for people.

JSON schema (version 1; fields are only ever added):

    schema      1
    prefix      the environment, absolute path
    python      a Python that was examined as it is (--python); null for an environment's own
    host        name of the machine
    version     of the doctor
    level       "quick", "full" or "gpu": what was asked for
    started     UTC, ISO 8601
    duration    seconds, wall clock
    ok          true when nothing failed (with --strict: and nothing is a warning)
    exit_code   0 when ok, else 1
    counts      {"passed": n, "failed": n, "warning": n, "not_run": n}
    results     in the order of the catalogue, each:
        id        stable name, "<subject>.<topic>"
        subject   the part before the dot
        level     the lowest level that includes the check
        status    "passed" | "failed" | "warning" | "not_run"
        seconds   wall clock, the start of the check's process included
        finding   one line: what was seen
        remedy    what to type or do, or null
        details   object; a failed check has "output", the last lines that it printed, and, where the breakage ledger
                  knows the failure, "ledger" (the entry's id) and "breaks" (the reason)
"""

from __future__ import annotations

import platform
import textwrap
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.doctor.check_result import FAILED, NOT_RUN, PASSED, STATUSES, WARNING, CheckResult

SCHEMA = 1
_MARKS = {PASSED: "ok", FAILED: "FAILED", WARNING: "warning", NOT_RUN: "not run"}
_COLOURS = {PASSED: "32", FAILED: "1;31", WARNING: "33", NOT_RUN: "2"}


@dataclass(frozen=True)
class DoctorReport:
    """What one run of the doctor found; duration in seconds. `strict`: a warning counts as a failure."""

    prefix: Path
    level: str
    started: datetime
    duration: float
    results: tuple[CheckResult, ...]
    strict: bool = False
    host: str = field(default_factory=platform.node)
    python: Path | None = None

    @property
    def ok(self) -> bool:
        """True when no check failed; warnings count only when strict, checks that were not run never."""
        return not self.count(FAILED) and not (self.strict and self.count(WARNING))

    @property
    def exit_code(self) -> int:
        """0 when ok, else 1."""
        return 0 if self.ok else 1

    def strictly(self) -> DoctorReport:
        """Return the same report, where a warning counts as a failure."""
        return replace(self, strict=True)

    def count(self, status: str) -> int:
        """Return how many results have this status."""
        return sum(result.status == status for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values (schema: this module's docstring)."""
        return {
            "schema": SCHEMA,
            "prefix": str(self.prefix),
            "python": str(self.python) if self.python else None,
            "host": self.host,
            "version": __version__,
            "level": self.level,
            "started": self.started.isoformat(timespec="seconds"),
            "duration": round(self.duration, 3),
            "ok": self.ok,
            "exit_code": self.exit_code,
            "counts": {status: self.count(status) for status in STATUSES},
            "results": [result.to_json() for result in self.results],
        }

    def to_text(self, width: int = 80, colour: bool = False) -> str:
        """Return the report for people: a table by subject, the sum, remedies last."""
        topic_width = max((len(result.id) - len(result.subject) - 1 for result in self.results), default=0)
        subject = f"Python {self.python} as it is" if self.python else f"Environment {self.prefix}"
        lines: list[str] = [*_wrap(f"{subject}, level {self.level}, on {self.host}", width), ""]
        subject = ""
        for result in self.results:
            if result.subject != subject:
                subject = result.subject
                lines.append(subject)
            lines += _row(result, topic_width, width, colour)
        lines += ["", *_wrap(self.summary(), width)]
        helped = [result for result in self.results if result.remedy]
        if helped:
            lines += ["", "What to do"]
            for result in helped:
                lines += _wrap(f"{result.id}: {result.remedy}", width, "  ", "    ")
        return "\n".join(lines) + "\n"

    def summary(self) -> str:
        """Return the sum in one line."""
        parts = [f"{self.count(PASSED)} passed", f"{self.count(FAILED)} failed"]
        if self.count(WARNING):
            parts.append(f"{self.count(WARNING)} with a warning")
        if self.count(NOT_RUN):
            parts.append(f"{self.count(NOT_RUN)} not run")
        return f"{', '.join(parts)}; {self.duration:.1f} s"


def _row(result: CheckResult, topic_width: int, width: int, colour: bool) -> list[str]:
    topic = result.id.partition(".")[2]
    mark = _MARKS[result.status]
    head = f"  {topic:<{topic_width}}  {mark:<7}  {result.seconds:5.1f} s  "
    finding = result.finding.removeprefix("not run: ") if result.status == NOT_RUN else result.finding
    lines = _wrap(finding, width, head, " " * len(head))
    if colour:
        lines[0] = lines[0].replace(mark, f"\x1b[{_COLOURS[result.status]}m{mark}\x1b[0m", 1)
    return lines


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=True
    ) or [first]

"""Progress on long work: bars on a terminal, a few plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

from cogvideo_sat_env.base.printable import printable


class Task(Protocol):
    """One long piece of work. `advance` counts bytes or items, whichever the task was opened with."""

    def advance(self, amount: int) -> None:
        """Count `amount` more as done."""

    def note(self, text: str) -> None:
        """Say what is being worked on now."""


class Progress(Protocol):
    """Where progress is shown; every long function of the program takes one."""

    def say(self, text: str) -> None:
        """Show one line for people."""

    def task(self, title: str, total: int | None, unit: str) -> AbstractContextManager[Task]:
        """Open a task; `unit` is "bytes" or the plural of what is counted."""


class Silent:
    """Shows nothing: for --json, --quiet and tests."""

    def say(self, text: str) -> None:
        """Drop the line."""

    @contextmanager
    def task(self, title: str, total: int | None, unit: str) -> Iterator[Task]:
        """Open a task that shows nothing."""
        yield _SilentTask()


class _SilentTask:
    def advance(self, amount: int) -> None: ...
    def note(self, text: str) -> None: ...


class Plain:
    """Lines on standard error, one when a task begins: for logs and pipes."""

    def say(self, text: str) -> None:
        """Print the line to standard error."""
        print(printable(text), file=sys.stderr, flush=True)

    @contextmanager
    def task(self, title: str, total: int | None, unit: str) -> Iterator[Task]:
        """Open a task that says only that it began."""
        amount = "" if total is None else f" ({human_bytes(total) if unit == 'bytes' else f'{total:,} {unit}'})"
        self.say(f"{title}{amount}")
        yield _SilentTask()


class Bars:
    """Bars on a terminal, drawn by rich on standard error."""

    def __init__(self) -> None:
        from rich.console import Console  # half of the start-up time: only where bars are drawn

        self._console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """Print the line above the bars."""
        self._console.print(printable(text), markup=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str, total: int | None, unit: str) -> Iterator[Task]:
        """Open a task with a bar, the amount done and the time left."""
        from rich import progress as rich_progress

        amount = (
            [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
            if unit == "bytes"
            else [rich_progress.MofNCompleteColumn(), rich_progress.TextColumn(unit)]
        )
        columns = [
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            *amount,
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
        ]
        with rich_progress.Progress(*columns, console=self._console, transient=False) as bars:
            yield _BarTask(bars, bars.add_task(title, total=total, note=""))


class _BarTask:
    def __init__(self, bars: RichProgress, task_id: TaskID) -> None:
        self._bars, self._id = bars, task_id

    def advance(self, amount: int) -> None:
        self._bars.advance(self._id, amount)

    def note(self, text: str) -> None:
        self._bars.update(self._id, note=text)


def choose(*, json: bool = False, quiet: bool = False) -> Progress:
    """Return bars on a terminal, plain lines elsewhere, nothing with `quiet`; --json keeps plain lines off stdout."""
    if quiet:
        return Silent()
    if sys.stderr.isatty() and not json:
        return Bars()
    return Plain()


def human_bytes(size: int | float) -> str:
    """Return a size in bytes as people read it, in powers of 1000: 4,590,000,000 -> "4.6 GB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")

"""A log, a traceback or a Slurm output file: which known failures are in it, what they mean, what to type."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cogvideo_sat_env.base.command_name import spell_out
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.symptoms import Symptom
from cogvideo_sat_env.spec.breakage import Ledger

_BLOCK = 1 << 20  # bytes read at once: the log may have gigabytes
_OVERLAP = 4096  # characters of a block that are looked at again with the next: no message is longer
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LAST = re.compile(
    r"(?:\[?rank\d+\]?:? ?)?((?:[A-Za-z_][\w.]*)?(?:Error|Exception|KeyboardInterrupt|SystemExit)\b.*|.*oom-kill.*)"
)
_LAST_WORDS = ("Error", "Exception", "KeyboardInterrupt", "SystemExit", "oom-kill")
_TRIES = 200  # lines of a block that are looked at, from its end, for the last error
_RANK = r"(?i:\[?(?:rank|default)\d+\]?:|\d+:(?=\s))"  # at the start of a line: torchrun's mark, srun -l's
_RANKS = re.compile(f"^{_RANK}", re.MULTILINE)
_GAP = rf"(?:[^\S\n]|\n(?:{_RANK})?)+"  # between two words: messages are wrapped across lines


@dataclass(frozen=True)
class Known:
    """A known failure that stands in the log: first on `line` (from 1), `count` times."""

    error: str
    means: str
    remedy: str
    checks: tuple[str, ...]
    line: int
    count: int


@dataclass(frozen=True)
class Explanation:
    """What a log says: its known failures in the order of their first line, and its last error in its own words."""

    source: str
    lines: int
    known: tuple[Known, ...]
    last_error: str

    @property
    def exit_code(self) -> int:
        """0 when at least one known failure is in it, else 1."""
        return 0 if self.known else 1

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "source": self.source, "lines": self.lines, "known": [asdict(item) for item in self.known],
            "last_error": self.last_error or None, "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        if not self.known:
            last = f"Its last error: {self.last_error}\n" if self.last_error else "There is no error message in it.\n"
            return f"{self.source}: none of the known failures is in these {self.lines:,} lines.\n{last}"
        parts = []
        for item in self.known:
            times = f", {item.count} times" if item.count > 1 else ""
            checks = f"\n  The doctor looks for it: {', '.join(item.checks)}" if item.checks else ""
            parts.append(
                f"{self.source}:{item.line}{times}: {item.error}\n  {item.means}\n  What to do: {item.remedy}{checks}\n"
            )
        return "\n".join(parts)


def explain(source: str, stream: BinaryIO, symptoms: Iterable[Symptom], ledger: Ledger) -> Explanation:
    """Read `stream` to its end, whatever its length, and return what is known of it. Raises OSError."""
    entries = [(entry.error, entry.breaks, entry.remedy, entry.proof.checks) for entry in ledger.all]
    entries += [(item.error, item.means, item.remedy, item.checks) for item in symptoms]
    wanted = {error: " ".join(error.split()) for error, *_ in entries}
    places: dict[str, list[int]] = {}
    tail, line, last = "", 1, ""
    for text in _blocks(stream):
        start = line - tail.count("\n")
        window = tail + text
        quick = " ".join(_RANKS.sub("", window).split())  # fast; where something stands is asked only when it does
        for error in (error for error, needle in wanted.items() if needle in quick):
            at, number = 0, start
            for match in re.finditer(_GAP.join(map(re.escape, wanted[error].split())), window):
                number += window.count("\n", at, match.start())
                at = match.start()
                if match.end() > len(tail):  # else it was counted with the block before
                    places.setdefault(error, []).append(number)
        last = _last_error(text) or last
        line += text.count("\n")
        tail = window[-_OVERLAP:]
    table = {error: (spell_out(means), spell_out(remedy), checks) for error, means, remedy, checks in entries}
    found = [Known(error, *table[error], min(rows), len(rows)) for error, rows in places.items()]
    return Explanation(source, line, tuple(sorted(_longest(found), key=lambda item: item.line)), last)


def explain_file(path: Path, symptoms: Iterable[Symptom], ledger: Ledger) -> Explanation:
    """Return what is known of the log at `path`. Raises InputError when it can't be read."""
    try:
        with path.open("rb") as stream:
            return explain(str(path), stream, symptoms, ledger)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; expected a log, e.g. slurm-123.out", "name the file, or - for standard input"
        ) from error


def _longest(found: list[Known]) -> list[Known]:
    """Leave out an error whose words are only a part of another one on the same lines."""
    return [
        item for item in found
        if not any(item.error in other.error and item.error != other.error and item.line == other.line
                   and item.count <= other.count for other in found)
    ]  # fmt: skip


def _last_error(text: str) -> str:
    """Return the last line of `text` that reads like an exception, "" when none does."""
    end = len(text)
    for _ in range(_TRIES):
        at = max(text.rfind(word, 0, end) for word in _LAST_WORDS)
        if at < 0:
            return ""
        start = text.rfind("\n", 0, at) + 1
        match = _LAST.fullmatch(text[start:].partition("\n")[0].strip())
        if match:
            return match[1][:300]
        end = start
    return ""


def _blocks(stream: BinaryIO) -> Iterator[str]:
    """Yield the log as text: UTF-8 or what its first bytes say; colours and progress bars' returns taken out."""
    first = stream.read(_BLOCK)
    name = next((name for mark, name in _MARKS if first.startswith(mark)), "utf-8")
    if name == "utf-8" and first[1:2] == b"\0" and first[3:4] == b"\0":
        name = "utf-16-le"  # PowerShell's, without its mark
    decoder = codecs.getincrementaldecoder(name)(errors="replace")
    while first:
        text = decoder.decode(first)
        yield _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        first = stream.read(_BLOCK)
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest

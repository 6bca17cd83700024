"""The fault table: which test shows what becomes of each fault, and docs/faults.md written from tests that ran.

    @pytest.mark.fault("truncated-body", "error", "names the file, the expected and the found size")

The first argument is an `id` of tests/faults/faults.yml, the second how it ends ("environment": the right environment
all the same; "error": one clear error and an unchanged prefix), the third what the user sees.

    python -m pytest -m fault --write-fault-table

runs every such test, end-to-end ones too, and writes docs/faults.md only when each of them ran and passed and no fault
of faults.yml is without a test. tests/faults/test_table.py compares the committed table with the collected tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
FAULTS = PROJECT / "tests" / "faults" / "faults.yml"
TABLE = PROJECT / "docs" / "faults.md"
ENDS = {"environment": "the right environment", "error": "a clear error, nothing changed"}
COLLECTED = pytest.StashKey[tuple[list["Row"], set[Path]]]()  # the rows of this run's tests, and their files
_reports: list[pytest.TestReport] = []  # of the marked tests of this run

HEAD = """\
# What goes wrong, and what happens then

Written by `python -m pytest -m fault --write-fault-table` from tests that ran and passed; don't edit it.
Every fault ends in one of two ways: the right environment all the same, or one clear error and an unchanged prefix.
"""


@dataclass(frozen=True)
class Row:
    """One test (all its parametrisations that say the same) for one fault."""

    fault: str
    ends: str
    seen: str
    test: str


def known_faults() -> list[dict[str, str]]:
    """Return the entries of faults.yml: `id`, `area` and `fault` (in words), in the order of the table."""
    return yaml.safe_load(FAULTS.read_text(encoding="utf-8"))


@cache
def known_ids() -> frozenset[str]:
    """Return the ids of faults.yml."""
    return frozenset(entry["id"] for entry in known_faults())


def rows_of(item: pytest.Item) -> list[Row]:
    """Return the rows that a test stands for. Raises pytest.UsageError for a mark that isn't as described above."""
    found = []
    test = item.nodeid.partition("[")[0]
    for mark in item.iter_markers("fault"):
        if len(mark.args) != 3 or mark.kwargs or mark.args[0] not in known_ids() or mark.args[1] not in ENDS:
            raise pytest.UsageError(
                f"{item.nodeid}: fault{mark.args}: expected an id of {FAULTS.name}, one of {sorted(ENDS)}, and a text"
            )
        found.append(Row(*mark.args, test))
    return found


def render(rows: Iterable[Row]) -> str:
    """Return the table: the faults in the order of faults.yml, their tests by name."""
    by_fault: dict[str, list[Row]] = {}
    for row in sorted(set(rows), key=lambda row: (row.test, row.ends, row.seen)):
        by_fault.setdefault(row.fault, []).append(row)
    lines, area = [HEAD.rstrip("\n")], ""
    for entry in known_faults():
        if entry["area"] != area:
            area = entry["area"]
            lines += ["", f"## {area}", "", "| fault | ends in | what is seen | test |", "|---|---|---|---|"]
        for number, row in enumerate(by_fault.get(entry["id"], [])):
            name = entry["fault"] if number == 0 else ""
            lines.append(f"| {name} | {ENDS[row.ends]} | {row.seen} | `{row.test.removeprefix('tests/')}` |")
    return "\n".join(lines) + "\n"


def untested(rows: Iterable[Row]) -> list[str]:
    """Return the ids of faults that no row is about."""
    tested = {row.fault for row in rows}
    return [entry["id"] for entry in known_faults() if entry["id"] not in tested]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fault table")
    group.addoption("--write-fault-table", action="store_true", help="write docs/faults.md; needs -m fault")
    group.addoption("--list-faults", type=Path, metavar="FILE", help="write the collected rows to FILE as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(id, ends, seen): what becomes of a fault of tests/faults/faults.yml")
    if config.getoption("--write-fault-table") and config.getoption("-m") != "fault":
        raise pytest.UsageError("--write-fault-table needs -m fault, so that every fault's test runs")


@pytest.hookimpl(tryfirst=True)  # before -m leaves any out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    collected: list[Row] = []
    for item in items:
        rows = rows_of(item)
        collected += rows
        item.user_properties += [("fault", json.dumps(asdict(row))) for row in rows]  # crosses to xdist's controller
    config.stash[COLLECTED] = (collected, {item.path for item in items})
    listing = config.getoption("--list-faults")
    if listing:
        listing.write_text(json.dumps([asdict(row) for row in collected]), encoding="utf-8")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if any(name == "fault" for name, _ in report.user_properties):
        _reports.append(report)


def outcomes(reports: Iterable[pytest.TestReport]) -> tuple[list[Row], list[str]]:
    """Return the rows of the tests that passed, and the tests that failed or were skipped."""
    worst: dict[str, str] = {}
    rows: dict[str, list[Row]] = {}
    for report in reports:
        rows[report.nodeid] = [Row(**json.loads(value)) for name, value in report.user_properties if name == "fault"]
        if report.outcome != "passed":
            worst[report.nodeid] = report.outcome
    passed = [row for nodeid, found in rows.items() if nodeid not in worst for row in found]
    return passed, [f"{nodeid}: {outcome}" for nodeid, outcome in sorted(worst.items())]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    if not config.getoption("--write-fault-table") or hasattr(config, "workerinput") or config.option.collectonly:
        return
    rows, wrong = outcomes(_reports)
    wrong += [f"{name}: no test that ran is about it" for name in untested(rows)]
    if wrong:
        config.get_terminal_writer().line("\ndocs/faults.md is not written:\n  " + "\n  ".join(wrong))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(render(rows), encoding="utf-8")

"""docs/faults.md is what the tests say, and no fault is without a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import faultplugin
from faultplugin import Row


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of every test of the project, run or not: this run has them when it was for all files."""
    rows, files = request.config.stash[faultplugin.COLLECTED]
    if files >= set((faultplugin.PROJECT / "tests").rglob("test_*.py")):
        return rows
    listing = tmp_path_factory.mktemp("faults") / "rows.json"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider",
         "-m", "fault", "--list-faults", str(listing)],
        cwd=faultplugin.PROJECT, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return [Row(**row) for row in json.loads(listing.read_text())]


def test_every_fault_has_a_test(collected: list[Row]) -> None:
    assert faultplugin.untested(collected) == []


def test_the_committed_table_is_that_of_the_tests(collected: list[Row]) -> None:
    assert faultplugin.TABLE.read_text(encoding="utf-8") == faultplugin.render(collected), (
        "run: python -m pytest -m fault --write-fault-table"
    )


def test_ids_are_unique_and_areas_together() -> None:
    entries = faultplugin.known_faults()
    assert len({entry["id"] for entry in entries}) == len(entries)
    areas = [entry["area"] for entry in entries]
    assert areas == sorted(areas, key=list(dict.fromkeys(areas)).index)


SUITE = """
import pytest
@pytest.mark.fault("reset", "error", "one")
def test_passes(): pass
@pytest.mark.fault("trickle", "environment", "two")
def test_skips(): pytest.skip("not here")
@pytest.mark.fault("umask", "error", "three")
def test_fails(): assert False
"""


def test_only_what_ran_and_passed_is_written(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "faultplugin", "-p", "no:cacheprovider", "-m", "fault",
         "--write-fault-table", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(faultplugin.PROJECT / "tests")},
    )  # fmt: skip
    assert run.returncode == 1
    assert "docs/faults.md is not written" in run.stdout
    assert "test_skips: skipped" in run.stdout and "test_fails: failed" in run.stdout
    assert "\n  reset: no test" not in run.stdout and "\n  trickle: no test that ran is about it" in run.stdout


def test_a_mark_without_a_fault_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE.replace('"reset"', '"no-such-fault"'))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "faultplugin", "-c", os.devnull, "--rootdir", str(tmp_path),
         "--collect-only", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(faultplugin.PROJECT / "tests")},
    )  # fmt: skip
    assert run.returncode != 0 and "no-such-fault" in run.stdout + run.stderr

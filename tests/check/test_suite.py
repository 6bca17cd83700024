"""The tests themselves: none is left out by accident."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def test_every_folder_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    """pytest's own norecursedirs leave out a folder called build or dist, without a word."""
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert folders
    patterns = pytestconfig.getini("norecursedirs")
    left_out = [str(folder) for folder in folders if any(fnmatch(part, p) for part in folder.parts for p in patterns)]
    assert left_out == []

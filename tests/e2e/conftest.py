"""The channel that `satenv build` makes of recipe/, once for all end-to-end tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT, satenv, shared


def copy_project(source: Path, target: Path) -> None:
    """Copy what a build reads."""
    target.mkdir(exist_ok=True)
    for name in ("environment.yml", "LICENSE"):
        shutil.copy(source / name, target)
    for name in ("recipe", "src", "locks"):
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has of the program and the recipe, as a plain folder; it doesn't change while tests run."""

    def make(folder: Path) -> Path:
        copy_project(PROJECT, folder / "project")
        return folder / "project"

    return shared(tmp_path_factory, "checkout", make)


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The channel for this machine, with the recipe's tests run; and what the command printed. Read only."""

    def make(folder: Path) -> tuple[Path, dict[str, Any]]:
        out = folder / "channel"
        run = satenv("build", "--out", str(out), "--all-tests", "--json", SATENV_PROJECT=str(checkout))
        assert run.returncode == 0, run.stdout + run.stderr
        return out, json.loads(run.stdout)

    return shared(tmp_path_factory, "built", make)

"""Fixtures that several areas share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest_plugins = ["faultplugin"]

PROJECT = Path(__file__).parents[1]
TESTS = PROJECT / "tests"
GPU_ONLY = "gpu"  # the argument of -m


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where there is no pytest-xdist, as in a site's Python, its options in pyproject.toml do nothing."""
    if find_spec("xdist") is None:
        group = parser.getgroup("xdist")
        group._addoption("-n", dest="numprocesses")  # as xdist does it: pytest keeps short options for itself
        group.addoption("--dist")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu` only tests/gpu is looked at: the others import what a site's Python doesn't have."""
    below = collection_path.relative_to(TESTS).parts if collection_path.is_relative_to(TESTS) else ()
    return True if config.getoption("markexpr") == GPU_ONLY and below and below[0] != "gpu" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores: servers that are slow on purpose and processes that hang leave a core idle.

    None with `-m gpu`: the GPUs are used by one test after the other.
    """
    if config.getoption("markexpr") == GPU_ONLY:
        return 0
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the one real environment go to one process (--dist loadgroup), the others run beside it."""
    for item in items:
        if "created" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("environment"))


@pytest.fixture(scope="session")
def frozen() -> Path:
    """The genuine channel metadata that the project's locks were solved against, by `satenv freeze`."""
    return PROJECT / "metadata"


@pytest.fixture(scope="session")
def frozen_urls(frozen: Path):
    """The frozen channels unpacked, as file:// URLs: conda-forge, nvidia."""
    from cogvideo_sat_env.base.artefacts import channel_url
    from cogvideo_sat_env.lock.frozen import frozen_channels

    with frozen_channels(frozen, [channel_url("conda-forge"), channel_url("nvidia")]) as urls:
        yield urls


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's data files, to be broken."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("environment.yml", "conda-lock.yml"):
        shutil.copy(PROJECT / name, root)
    for name in ("environments", "locks", "recipe"):
        shutil.copytree(PROJECT / name, root / name)
    return root


@dataclass(frozen=True)
class Created:
    """An environment made by the command line from wheels, and what the command printed as JSON."""

    prefix: Path
    outcome: dict


def satenv(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/satenv as a user does."""
    return subprocess.run(
        [str(PROJECT / "scripts" / "satenv"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.fixture(scope="session")
def created(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """The real thing: some gigabytes of wheels, converted and linked, with the doctor's quick level at the end."""
    prefix = tmp_path_factory.mktemp("created") / "cogvideo-sat"
    run = satenv("create", "--source", "wheels", "-p", str(prefix), "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    return Created(prefix, json.loads(run.stdout))


@pytest.fixture(scope="session")
def wheels_prefix(created: Created) -> Path:
    """The prefix of `created`."""
    return created.prefix

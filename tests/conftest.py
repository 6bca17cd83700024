"""Fixtures that several areas share."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["faultplugin"]
sys.dont_write_bytecode = False  # each of the processes that collect the tests would compile all of them

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


# With --dist loadgroup --no-loadscope-reorder: what takes minutes is begun first, then what waits for it to be made.
FIRST = (
    "tests/e2e/test_build.py::test_every_piece", "tests/cluster/test_slurm_training.py", "tests/e2e/test_bare_system.py",
    "tests/e2e/test_metapackage.py", "full_report",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have tests that share a fixture of their module run in one process, where it is made once; the longest first."""
    places: dict[str, int] = {}
    for item in items:
        group = _group(item)
        if group and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))
        name = group or item.nodeid
        places[item.nodeid] = next((n for n, first in enumerate(FIRST) if name.startswith(first)), len(FIRST))
    items.sort(key=lambda item: places[item.nodeid])


def _group(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("xdist_group")
    if marker:
        return marker.args[0]
    fixtures = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    if "full_report" in fixtures:  # a minute, in which a second process would wait
        return "full_report"
    of_module = any(definition.scope == "module" for found in fixtures.values() for definition in found)
    return item.nodeid.partition("::")[0] if of_module else None


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Any:
    """Return what `make(folder)` returned: the first of xdist's workers makes it, for all of them. Read only."""
    from filelock import FileLock

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made = folder / "made"
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            folder.mkdir()  # a second time, after a failure, is a failure
            made.write_bytes(pickle.dumps(make(folder)))
    return pickle.loads(made.read_bytes())


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
    """The real thing: some gigabytes of wheels, converted and linked, with the doctor's quick level at the end.

    A first step of training compiles what DeepSpeed needs, so that no test waits for another's compiler.
    """

    def make(folder: Path) -> Created:
        prefix = folder / "cogvideo-sat"
        run = satenv("create", "--source", "wheels", "-p", str(prefix), "--json")
        assert run.returncode == 0, run.stdout + run.stderr
        trained = satenv("doctor", "-p", str(prefix), "--only", "training.zero2")
        assert trained.returncode == 0, trained.stdout + trained.stderr
        return Created(prefix, json.loads(run.stdout))

    return shared(tmp_path_factory, "created", make)


@pytest.fixture(scope="session")
def wheels_prefix(created: Created) -> Path:
    """The prefix of `created`."""
    return created.prefix


@pytest.fixture(scope="session")
def good_prefix(request: pytest.FixtureRequest) -> Path:
    """A complete environment: SATENV_E2E_PREFIX, else the one that the wheels source creates."""
    named = os.environ.get("SATENV_E2E_PREFIX")
    return Path(named).absolute() if named else Path(request.getfixturevalue("wheels_prefix"))


@pytest.fixture(scope="session")
def full_report(good_prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the doctor's full level says of it, by the command line."""

    def make(folder: Path) -> dict[str, Any]:
        leaking = ("PYTHONPATH", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
        run = subprocess.run(
            [str(PROJECT / "scripts" / "satenv"), "doctor", "-p", str(good_prefix), "--json"],
            capture_output=True, text=True, check=False,
            env={name: value for name, value in os.environ.items() if name not in leaking},
        )  # fmt: skip
        report = json.loads(run.stdout)
        assert run.returncode == report["exit_code"], run.stderr
        return report

    return shared(tmp_path_factory, "full-report", make)

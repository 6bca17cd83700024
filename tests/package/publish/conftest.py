"""A small channel as `satenv build` leaves it, and programs that stand for the servers it is published to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.paths import current_platform

HERE = Path(__file__).parent
SUMMARY = "a package of the tests"


def toy_specs() -> list[packages.Spec]:
    """A metapackage for each device and one piece that they need, as the recipe makes them."""
    text = packages.Text("x\n")
    need = ["python 3.11.*", "toy-piece >=1"]
    return [
        packages.Spec("toy-piece", "1.0", "py_0", {"share/toy-piece": text}, noarch="generic", summary=SUMMARY),
        packages.Spec("toy", "0.1.0", "cpu_0", {"share/toy": text}, [*need, "pytorch * cpu*"], summary=SUMMARY),
        packages.Spec("toy", "0.1.0", "cuda129_0", {"share/toy": text}, [*need, "__cuda"], summary=SUMMARY),
    ]


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    """The built channel."""
    folder = tmp_path / "built"
    for spec in toy_specs():
        packages.make_package(spec, folder, current_platform())
    packages.index(folder)
    return folder


@contextmanager
def program(script: str, *arguments: str) -> Iterator[str]:
    """Run a server of this folder in a process of its own; yield its address."""
    child = subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True
    )  # py-rattler's uploads hold the interpreter, and would wait for a server in the same one
    try:
        yield child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def requests_of(log: Path) -> list[dict]:
    """The requests that a server has written down, in order."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

"""Fixtures of the doctor's tests: fake prefixes for the fast ones, one good environment for the real ones."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import packaging
import pytest

from cogvideo_sat_env.doctor import CheckResult
from cogvideo_sat_env.doctor.check_result import CheckSpec
from cogvideo_sat_env.doctor.gpus import GpuFacts, Link
from cogvideo_sat_env.doctor.runner import PROBES, Conditions, Doctor

from .overlay import Overlay


class Machine:
    """A machine with the given driver, GPUs and links; without arguments one that has none."""

    def __init__(self, facts: GpuFacts | None = None, *links: Link) -> None:
        self._facts = facts or GpuFacts()
        self._links = links

    def gpu_facts(self) -> GpuFacts:
        return self._facts

    def links(self) -> tuple[Link, ...]:
        return self._links


class FakePrefix:
    """A prefix whose Python is the running one, with packages of its own that a test writes as text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.site = root / "lib" / "site"
        self.site.mkdir(parents=True)
        (root / "bin").mkdir()
        (self.site / "packaging").symlink_to(Path(packaging.__file__).parent)
        # -S: nothing of the tests' own environment; -E comes too late for the variable itself
        self.program(
            "python", f'exec env PYTHONPATH="{self.site}${{PYTHONPATH:+:$PYTHONPATH}}" "{sys.executable}" -S "$@"\n'
        )

    def program(self, name: str, body: str, folder: Path | None = None) -> Path:
        """Write an executable shell script into bin/ (or `folder`)."""
        path = (folder or self.root / "bin") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def file(self, path: str, text: str) -> Path:
        """Write a file below the prefix."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text), encoding="utf-8")
        return target

    def module(self, name: str, text: str = "") -> Path:
        """Write a module (a dotted path of a file without .py) into the prefix's packages."""
        return self.file(f"lib/site/{name}.py", text)

    def distribution(self, name: str, version: str, record: str = "") -> None:
        """Write a distribution's metadata."""
        folder = f"lib/site/{name.replace('-', '_')}-{version}.dist-info"
        self.file(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        self.file(f"{folder}/RECORD", record)

    def record(self, name: str, version: str, files: dict[str, str], build: str = "0") -> None:
        """Write the files of a conda package, and conda's record of them, which keeps size and hash of each."""
        paths = []
        for path, text in files.items():
            content = self.file(path, text).read_bytes()
            paths.append({
                "_path": path, "path_type": "hardlink", "size_in_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            })  # fmt: skip
        record = {
            "name": name,
            "version": version,
            "build": build,
            "files": list(files),
            "paths_data": {"paths": paths},
        }
        self.file(f"conda-meta/{name}-{version}-{build}.json", json.dumps(record))

    def check(
        self, *ids: str, machine: Machine | None = None, options: dict[str, Any] | None = None, **environ: str
    ) -> CheckResult:
        """Run one real check in this prefix with exactly these variables; return its result."""
        base = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.root / "home")}
        given = Conditions(options=options or {}, hardware=machine or Machine(), environ=base | environ)
        doctor = Doctor(self.root, given)
        (result,) = doctor.run("full", only=ids).results
        return result


@pytest.fixture
def prefix(tmp_path: Path) -> FakePrefix:
    return FakePrefix(tmp_path / "prefix")


@pytest.fixture
def toy(prefix: FakePrefix, tmp_path: Path) -> Callable[..., Doctor]:
    """Return a function that makes a doctor whose only checks are those of a text: the file checks/toy.py."""

    def make(
        text: str,
        *specs: CheckSpec,
        machine: Machine | None = None,
        options: dict[str, Any] | None = None,
        patience: float = 1.0,
        **environ: str,
    ) -> Doctor:
        probes = tmp_path / "probes"
        shutil.copytree(PROBES, probes, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (probes / "toy.py").write_text(
            "import os, signal, subprocess, sys, time\nfrom pathlib import Path\n"
            "from ._probe import failed, not_run, passed, warning\n" + textwrap.dedent(text),
            encoding="utf-8",
        )
        base = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        given = Conditions(
            options=options or {}, patience=patience, hardware=machine or Machine(), checks=specs, probes=probes,
            environ=base | environ,
        )  # fmt: skip
        return Doctor(prefix.root, given)

    return make


@pytest.fixture
def clean_shell(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take away the tests' own variables that the doctor would rightly tell."""
    for name in ("PYTHONPATH", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def overlay(good_prefix: Path, tmp_path: Path, clean_shell: pytest.MonkeyPatch) -> Overlay:
    """A thin copy of the good environment, to be broken."""
    return Overlay(good_prefix, tmp_path / "broken")

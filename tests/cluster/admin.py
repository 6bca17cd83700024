"""A cluster's ROOT with small releases in it: generated packages, the host's Python, a doctor that says what it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

import channelserver
import packages
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster.deploy import Deployed, Deployment, deploy
from cogvideo_sat_env.cluster.root import Root
from cogvideo_sat_env.create.create import CreateRequest
from cogvideo_sat_env.doctor.check_result import FAILED, PASSED, CheckResult
from cogvideo_sat_env.doctor.doctor_report import DoctorReport
from create.test_create import Machine

HERE = Path(__file__).parent
SAMPLE = ("linked", "data", "x264")
CUDA = {  # what conda-forge has of CUDA, as far as activation looks at it
    "bin/nvcc": packages.Text("#!/bin/sh\n", executable=True),
    "targets/x86_64-linux/include/cuda.h": packages.Text(""),
    "targets/x86_64-linux/lib/stubs/libcuda.so": packages.Text(""),
    "etc/conda/activate.d/others.sh": packages.Text("unset OF_THE_SITE\n"),  # what another package may do
}


@pytest.fixture(scope="session")
def small_channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of a few small packages and of the host's Python."""
    root = tmp_path_factory.mktemp("mirror")
    specs = [spec for spec in packages.sample_specs() if spec.name in SAMPLE]
    for spec in [*specs, packages.Spec("cuda-things", files=CUDA)]:
        packages.make_package(spec, root / "conda-forge", current_platform())
    packages.make_host_python(root / "conda-forge", [])
    packages.index(root / "conda-forge")
    return root


@dataclass
class Site:
    """A cluster's administrator: a project with a lock of small packages, ROOT, and what the doctor is to say."""

    machine: Machine
    artefacts: list[CondaArtefact]
    path: Path
    failing: list[str] = field(default_factory=list)
    proven: list[Path] = field(default_factory=list)

    @property
    def root(self) -> Root:
        return Root(self.path)

    def lock(self, *without: str) -> None:
        """Have the project's lock name all packages but these: another lock, another release."""
        self.machine.write_lock([artefact for artefact in self.artefacts if artefact.name not in without])

    def prove(self, outcome: Any, progress: Any) -> Any:
        """Stand in for the doctor, whose checks need the real environment; nothing else of a deployment is replaced."""
        self.proven.append(outcome.prefix)
        results = [CheckResult(name, "quick", FAILED, 0.1, "no", None, {}) for name in self.failing]
        results.append(CheckResult("identity.prefix", "quick", PASSED, 0.1, "yes", None, {}))
        report = DoctorReport(outcome.prefix, "quick", datetime.now(timezone.utc), 0.1, tuple(results))
        return replace(outcome, report=report)

    def deploy(self, *without: str, **options: Any) -> Deployed:
        """Deploy the lock without some packages."""
        self.lock(*without)
        request = CreateRequest(sources=("channel",), variant="cpu", **options.pop("request", {}))
        return deploy(Deployment(self.path, request, **options), Silent(), self.prove)

    def satenv(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.machine.satenv(*arguments, **{"SATENV_CACHE": os.environ["SATENV_CACHE"], **variables})


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all releases, as on a real cluster: each package is extracted once."""
    return tmp_path_factory.mktemp("cache") / "satenv"


@pytest.fixture
def apps(
    small_channel: Path, warm_cache: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    with channelserver.serving(small_channel) as server:
        machine = Machine(project, server, tmp_path / "home")
        machine.home.mkdir()
        for name, value in (("SATENV_PROJECT", project), ("SATENV_CACHE", warm_cache)):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("PATH", str(slurm(tmp_path / "slurm")), prepend=":")
        monkeypatch.delenv("_COGVIDEO_SAT_PREFIX", raising=False)
        found = packages.artefacts(small_channel / "conda-forge", f"{server.url}/conda-forge")
        yield Site(machine, found, tmp_path / "apps" / "sat")


def slurm(folder: Path, queue: str = "", scripts: dict[str, str] | None = None, code: int = 0) -> Path:
    """Write the two commands of Slurm's that are asked, with their answers; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.json").write_text(json.dumps({"queue": queue, "scripts": scripts or {}, "code": code}))
    for name in ("squeue", "scontrol"):
        text = (HERE / "slurm_answers.py").read_text(encoding="utf-8")
        (folder / name).write_text(f"#!{sys.executable} -I\n{text}")
        (folder / name).chmod(0o755)
    return folder


def environment(text: bytes) -> dict[str, str]:
    """Return what `env -0` printed."""
    return dict(os.fsdecode(entry).split("=", 1) for entry in text.split(b"\0") if b"=" in entry)

"""A bundle on a bare machine: its own wheels, no site-packages, an empty home, and no network where it can be cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airgap
import channelserver
import packages
from airgap import Lab
from clusterpage import typed
from cogvideo_sat_env.base.paths import current_platform

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]
VERSION = packages.host_python_spec()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The real project and tool, but a lock of small packages, with a Python that has pip, and a wheel."""
    place = tmp_path_factory.mktemp("lab")
    root, project = place / "world", place / "project"
    project.mkdir()
    for name in ("environment.yml", "conda-lock.yml", "README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(airgap.PROJECT / name, project)
    for name in ("environments", "locks", "scripts", "src"):
        shutil.copytree(airgap.PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    packages.make_sample_channel(root / "conda-forge", packages.pip_wheels(place / "pip"))
    airgap.make_wheel(root / "files")
    (place / "home").mkdir()
    with channelserver.serving(root) as server:
        lab = Lab(project, server, place / "home")
        artefacts = packages.artefacts(root / "conda-forge", f"{server.url}/conda-forge")
        lab.write_lock(artefacts, [airgap.wheel_pin(root)])
        yield lab


@pytest.fixture(scope="module")
def mirror(lab: Lab) -> Path:
    folder = lab.home / "mirror"
    run = lab.satenv("mirror", str(folder), "--variant", "cpu")
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_create_from_a_mirror_takes_pip_files_from_its_wheelhouse(lab: Lab, mirror: Path, kind: str) -> None:
    prefix = lab.home / f"from-{kind}"
    with channelserver.serving(mirror) as server:
        run = lab.satenv(
            "create", "--source", f"mirror={mirror if kind == 'folder' else server.url}", "--variant", "cpu",
            "--no-doctor", "-p", str(prefix), PIP_INDEX_URL="http://127.0.0.1:9/index",
            SATENV_CACHE=str(lab.home / f"cache-{kind}"),
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (packages.site_packages(prefix) / "tinywheel.py").read_text() == "VALUE = 42\n"


def test_a_bare_python_installs_a_bundle(lab: Lab, mirror: Path) -> None:
    bundle, prefix, home = lab.home / "sat.pyz", lab.home / "envs" / "sat", lab.home / "bare"
    home.mkdir()
    places = {name: lab.environment()[name] for name in ("PYTHONPATH", "SATENV_PROJECT", "SATENV_CACHE")}
    run = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env", "bundle", "pack", str(bundle), "--variant", "cpu",
         "--mirror", str(mirror), "--python", VERSION, "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, **places},  # the site's own package index
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    installed = _bare(home, bundle, "install", "-p", prefix, "--no-doctor", "--json")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    outcome = json.loads(installed.stdout)
    assert outcome["status"] == "created" and outcome["source"] == "bundle"
    assert (packages.site_packages(prefix) / "tinywheel.py").read_text() == "VALUE = 42\n"
    said = subprocess.run([prefix / "bin" / "purepy"], capture_output=True, text=True, check=True)
    assert said.stdout == "purepy main\n"
    again = _bare(home, bundle, "install", "-p", prefix, "--no-doctor")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    root = home / "apps" / "sat"  # of a cluster; the doctor wants more than small packages: it doesn't become current
    line = typed("python3 sat.pyz satenv deploy /apps/sat --bundle sat.pyz", {"/apps/sat": root, "sat.pyz": bundle})
    deployed = _bare(home, *line.split()[1:], "--json")
    done = json.loads(deployed.stdout)
    assert deployed.returncode == 1 and done["status"] == "created" and not done["current"], deployed.stderr
    assert done["record"]["source"] == "bundle" and done["record"]["doctor"]["failed"]
    assert (packages.site_packages(Path(done["prefix"])) / "tinywheel.py").read_text() == "VALUE = 42\n"
    checked = _bare(home, bundle, "satenv", "check", "--help")
    assert checked.returncode == 0 and "Usage: python3 " in checked.stdout and "satenv check" in checked.stdout
    project = next((home / ".cache" / "cogvideo-sat-env" / "bundles").glob("*/project"))
    launched = subprocess.run(
        [project / "scripts" / "satenv", "--version"], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
    )  # fmt: skip
    assert launched.returncode == 0 and "preparing" not in launched.stderr, "the launcher finds the unpacked tool"


def _bare(home: Path, bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    cut = ["unshare", "-n"] if os.geteuid() == 0 and shutil.which("unshare") else []
    if cut and subprocess.run([*cut, "true"], capture_output=True, check=False).returncode != 0:
        cut = []  # a container that may not
    python = os.path.realpath(sys.executable)
    return subprocess.run(
        [*cut, python, "-I", str(bundle), *map(str, arguments)], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)}, cwd=home,
    )  # fmt: skip

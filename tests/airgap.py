"""A project whose locks are of small generated packages, with a channel server and a package index that have them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml

import channelserver
import packages
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.paths import current_platform

PROJECT = Path(__file__).parents[1]
CPU_LOCK = "locks/linux-64-cpu-conda-lock.yml"
CUDA_LOCK = "conda-lock.yml"
OLD = "old-2.1-0.tar.bz2"
WHEEL = "tinywheel-1.0-py3-none-any.whl"


def make_old_package(folder: Path) -> Path:
    """Make a package in conda's old format, whose metadata the channel has corrected in its repodata."""
    folder.mkdir(parents=True, exist_ok=True)
    body = b"old\n" * 2000
    index = {
        "name": "old", "version": "2.1", "build": "0", "build_number": 0, "subdir": "noarch", "noarch": "generic",
        "depends": ["data >=1", "linked", "gone"], "license": "MIT",
    }  # fmt: skip
    paths = {"paths_version": 1, "paths": [{
        "_path": "share/old/body", "path_type": "hardlink", "sha256": hashlib.sha256(body).hexdigest(),
        "size_in_bytes": len(body),
    }]}  # fmt: skip
    path = folder / OLD
    members = {"info/index.json": json.dumps(index).encode(), "info/paths.json": json.dumps(paths).encode(),
               "info/files": b"share/old/body\n", "share/old/body": body}  # fmt: skip
    with tarfile.open(path, "w:bz2") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_wheel(folder: Path) -> Path:
    """Make a wheel of one module."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / WHEEL, "tinywheel-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {
            "tinywheel.py": "VALUE = 42\n",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "tinywheel.py,,\n",
        }.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 0, 0, 0)), text)
    return path


def make_world(root: Path) -> Path:
    """Make the channel `root`/conda-forge and the index files `root`/files; return `root`."""
    for spec in packages.sample_specs():
        if spec.name != "purepy":
            packages.make_package(spec, root / "conda-forge", current_platform())
    make_old_package(root / "conda-forge" / "noarch")
    make_wheel(root / "files")
    return root


def locked(root: Path, channel_url: str) -> list[CondaArtefact]:
    """Return the lock entries of the world at `root`."""
    from dataclasses import replace

    found = packages.artefacts(root / "conda-forge", channel_url)
    old = packages.artefact(root / "conda-forge" / "noarch" / OLD, channel_url)
    return [*found, replace(old, depends=("data >=2", "linked"))]


@dataclass
class Lab:
    """One site: a project, a server, and places of its own."""

    project: Path
    server: channelserver.ChannelServer
    home: Path
    pip: bool = False

    def satenv(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a user does, with the loopback index as pip's."""
        return subprocess.run(
            [sys.executable, "-m", "cogvideo_sat_env", *arguments],
            capture_output=True, text=True, check=False, cwd=self.home, env=self.environment(**variables),
        )  # fmt: skip

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of the site."""
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONPATH": str(PROJECT / "src"),
            "SATENV_PROJECT": str(self.project), "SATENV_CACHE": str(self.home / "cache"),
            "PIP_INDEX_URL": self.server.index_url, "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            **variables,
        }  # fmt: skip

    def write_lock(self, artefacts: list[CondaArtefact], pins: list[PipPin] = (), path: str = CPU_LOCK) -> None:
        """Write a lock of these packages."""
        common = {"platform": "linux-64", "category": "main", "optional": False}
        entries = [
            {
                "name": a.name, "version": a.version, "manager": "conda", "url": a.url,
                "dependencies": {d.split()[0]: d.partition(" ")[2] for d in a.depends},
                "hash": {"md5": a.md5, "sha256": a.sha256}, **common,
            }
            for a in artefacts
        ] + [
            {
                "name": p.name, "version": p.version, "manager": "pip", "dependencies": {},
                "url": "${SATENV_WHEELHOUSE}/" + p.file_name, "hash": {"sha256": p.sha256}, **common,
            }
            for p in pins
        ]  # fmt: skip
        metadata = {
            "content_hash": {"linux-64": "0" * 64}, "platforms": ["linux-64"], "sources": [],
            "channels": [{"url": "conda-forge", "used_env_vars": []}, {"url": "nvidia", "used_env_vars": []}],
        }  # fmt: skip
        (self.project / path).write_text(yaml.safe_dump({"version": 1, "metadata": metadata, "package": entries}))


def wheel_pin(root: Path) -> PipPin:
    """Return the pin of the wheel."""
    content = (root / "files" / WHEEL).read_bytes()
    return PipPin("tinywheel", "1.0", hashlib.sha256(content).hexdigest(), WHEEL, len(content))

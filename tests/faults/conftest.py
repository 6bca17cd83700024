"""The machine of tests/install for the faults, small file systems, and packages that no honest tool would make."""

from __future__ import annotations

import bz2
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zstandard

import packages
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.paths import current_platform
from install.conftest import CHANNEL, Site, sample, sample_with_pip, site  # noqa: F401 - fixtures

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> Member:
    """Return one member of a package archive, of any kind."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def _tar(members: Sequence[Member]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for info, content in members:
            out.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def evil(
    folder: Path, members: Sequence[Member], listed: Sequence[dict], name: str = "evil", ending: str = ".conda"
) -> CondaArtefact:
    """Pack `members` as they are into a package whose paths.json says `listed`, and return its lock entry."""
    index = {"name": name, "version": "1", "build": "0", "build_number": 0, "depends": [], "subdir": current_platform()}
    info = [
        member("info/index.json", json.dumps(index).encode()),
        member("info/paths.json", json.dumps({"paths": list(listed), "paths_version": 1}).encode()),
    ]
    path = folder / current_platform() / f"{name}-1-0{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".tar.bz2":
        path.write_bytes(bz2.compress(_tar([*info, *members])))
        return packages.artefact(path, CHANNEL)
    compressor = zstandard.ZstdCompressor(level=1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        out.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        out.writestr(f"pkg-{name}-1-0.tar.zst", compressor.compress(_tar(members)))
        out.writestr(f"info-{name}-1-0.tar.zst", compressor.compress(_tar(info)))
    return packages.artefact(path, CHANNEL)


def listed(path: str, size: int = 0, kind: str = "hardlink") -> dict:
    """Return one entry of paths.json."""
    return {"_path": path, "path_type": kind, "size_in_bytes": size}


@pytest.fixture
def install_evil(site: Site, tmp_path: Path) -> Callable[..., Path]:  # noqa: F811
    """Install an evil package beside honest ones, from a folder; return the prefix."""

    def run(*artefacts: CondaArtefact) -> Path:
        prefix = site.home / "env"
        made = {a.sha256 for a in artefacts}
        site.install(
            prefix,
            artefacts=[*site.artefacts, *artefacts],
            locate=lambda a: (tmp_path / a.subdir / a.file_name).as_uri() if a.sha256 in made else site.locate(a),
        )
        return prefix

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A maker of small file systems; the argument are tmpfs' options, as "size=6m" or "nr_inodes=40"."""
    mounts: list[Path] = []

    def make(options: str) -> Path:
        if os.geteuid() != 0 or not sys.platform.startswith("linux"):
            pytest.skip("mounting a small tmpfs needs root on Linux")
        mount = tmp_path / f"disk{len(mounts)}"
        mount.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)], capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            pytest.skip(f"a tmpfs can't be mounted here: {made.stderr.strip()}")
        mounts.append(mount)
        return mount

    yield make
    for mount in mounts:
        subprocess.run(["umount", str(mount)], check=True)


def fill(folder: Path) -> Path:
    """Fill the file system of `folder` to the last byte; return the file that does."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(64 * 1024))
        except OSError:
            pass  # full: that was the purpose
    return filler


def tree(prefix: Path) -> dict[str, tuple]:
    """Return what is in a prefix: type, permissions, size, time and inode of everything."""
    return {
        str(path.relative_to(prefix)): (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ino)
        for path in prefix.rglob("*")
        if (s := path.lstat())
    }

"""The tool out of a bundle: an environment of its own wheels, made without venv, pip or network.

Python's standard library only. It lies where scripts/satenv looks for it, so the unpacked project works as a checkout.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.complete import is_complete_venv, make_once, noexec
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.bundle.container import Bundle

PROJECT = "project/"


def unpack_project(bundle: Bundle, cache: Path) -> Path:
    """Unpack the bundle's project (locks, program) below `cache`, proven; return its folder."""
    folder = cache / "bundles" / bundle.id[:16]
    with diskspace.watch(folder.parent, "the bundle's program"):
        make_once(str(folder), lambda place: _write_project(bundle, Path(place)), "any Python")
    return folder / "project"


def _write_project(bundle: Bundle, folder: Path) -> None:
    for member in bundle.members.values():
        if member.path.startswith(PROJECT):
            path = folder / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as stream:
                bundle.copy(member, stream.write)
            path.chmod(0o755 if member.executable else 0o644)


def unpack_tool(bundle: Bundle, cache: Path) -> Path:
    """Unpack the tool's wheels for this Python below `cache`, proven; return the Python that has them.

    Raises InputError when the bundle has none for this Python and machine.
    """
    version = "{}.{}".format(*sys.version_info)
    key = f"{version}/{current_platform()}"
    wheels = bundle.manifest["tool"]["wheels"].get(key)
    if wheels is None:
        there = ", ".join(sorted(bundle.manifest["tool"]["wheels"]))
        raise InputError(
            f"{bundle.name}: has no tool for Python {version} on {current_platform()}; it has: {there}",
            "run it with one of those Pythons, on that platform",
        )
    if noexec(diskspace.existing(cache)):
        raise PrefixError(
            f"{cache}: lies on a file system that is mounted noexec; the tool can't be started there",
            "choose another place for the cache with SATENV_CACHE",
        )
    folder = cache / "tool" / bundle.manifest["tool"]["key"]
    with diskspace.watch(folder.parent, "the tool"):
        make_once(str(folder), lambda place: _write_tool(bundle, wheels, Path(place)), version, is_complete_venv)
    return folder / "bin" / "python"


def _write_tool(bundle: Bundle, wheels: list[str], folder: Path) -> None:
    base = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    site = folder / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(base)
    (folder / "bin" / "python3").symlink_to("python")
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n",
        encoding="utf-8",
    )
    for path in wheels:
        with tempfile.TemporaryFile(dir=folder) as stream:  # the largest has tens of megabytes
            bundle.copy(bundle.members[path], stream.write)
            stream.seek(0)
            try:
                _lay_out(stream, site)
            except zipfile.BadZipFile as error:
                raise InputError(f"{path}: is no wheel: {error}", "take the bundle from its maker again") from error


def _lay_out(wheel: io.IOBase, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            name = info.filename
            top, _, rest = name.partition("/")
            if top.endswith(".data"):  # scripts and headers: only modules are needed
                kind, _, name = rest.partition("/")
                if kind not in ("purelib", "platlib"):
                    continue
            target = site / name
            if info.is_dir() or not name:
                continue
            if not Path(os.path.normpath(target)).is_relative_to(site):
                raise InputError(f"{info.filename}: leads out of a wheel", "take the bundle from its maker again")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1024 * 1024)

"""A lock as typed values, read from conda-lock.yml (conda-lock's format, version 1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin, split_archive, split_url
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError

WHAT = "a conda-lock file (format version 1)"
WHEELHOUSE = "${SATENV_WHEELHOUSE}"  # stands for the folder or site that holds the pip files; pip expands it
Document = tuple[Any, yamlfile.Lines]  # the values of a lock as they stand there, and the lines of them
_INSTALLED = ("main", "dev")  # categories that `conda-lock install` takes unless told otherwise
_REMEDY = f"make the lock again: {satenv('lock')}, or conda-lock for one of your own"
_Item = TypeVar("_Item", CondaArtefact, PipPin)


@dataclass(frozen=True)
class Lock:
    """The solution for one platform."""

    path: Path
    platform: str
    channels: tuple[str, ...]
    content_hash: str
    conda: tuple[CondaArtefact, ...]
    pip: tuple[PipPin, ...]


def _platforms(path: Path, data: object, lines: yamlfile.Lines) -> tuple[str, ...]:
    if not isinstance(data, dict) or data.get("version") != 1:
        found = data.get("version") if isinstance(data, dict) else type(data).__name__
        raise InputError(
            f"{path}:{lines.of('version')}: expected {WHAT}; found version {found!r}",
            f"make it again with: {satenv('lock')}",
        )
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("platforms"), list):
        raise InputError(f"{path}:{lines.of('metadata')}: expected metadata with a list of platforms", None)
    return tuple(metadata["platforms"])


def load_lock(path: Path) -> Document:
    """Read the YAML of the lock at `path`. Raises InputError when it can't be read."""
    try:
        return yamlfile.load(path, WHAT)
    except InputError as error:
        if _is_explicit(path):
            raise InputError(
                f"{path}: is an explicit lockfile; expected {WHAT}",
                "name the conda-lock.yml that it was rendered from; explicit files are for mamba create --file",
            ) from error
        raise


def _is_explicit(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return b"\n@EXPLICIT" in b"\n" + stream.read(4096)
    except OSError:
        return False


def lock_platforms(path: Path) -> tuple[str, ...]:
    """Return the platforms that the lock at `path` has solutions for. Raises InputError."""
    return _platforms(path, *load_lock(path))


def read_lock(path: Path, platform: str, sizes: dict[str, int] | None = None, document: Document | None = None) -> Lock:
    """Read the solution for `platform` from the lock at `path`; `sizes` gives bytes by SHA-256.

    `document` is what load_lock gave for that file, for who wants several platforms of it.
    Raises InputError with file and line when the file is malformed or has no solution for the platform.
    """
    data, lines = document or load_lock(path)
    platforms = _platforms(path, data, lines)
    if platform not in platforms:
        raise InputError(
            f"{path}: holds no solution for {platform}; it has {', '.join(platforms) or 'none'}",
            "choose one of those with --platform, or see the README for the other variants' locks",
        )
    if not isinstance(data.get("package"), list):
        raise InputError(f"{path}:{lines.of('package')}: expected a list of packages under 'package'", None)
    sizes = sizes or {}
    conda: list[CondaArtefact] = []
    pip: list[PipPin] = []
    for index, entry in enumerate(data["package"]):
        where = f"{path}:{lines.of('package', index)}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: a package must be a mapping", _REMEDY)
        if entry.get("platform") != platform or entry.get("category", "main") not in _INSTALLED:
            continue
        _parse_entry(where, entry, sizes, conda, pip)
    conda, pip = _once(path, conda), _once(path, pip)
    metadata = data["metadata"]
    channels = tuple(str(c.get("url", "")) for c in metadata.get("channels") or [] if isinstance(c, dict))
    content_hash = str((metadata.get("content_hash") or {}).get(platform, ""))
    return Lock(path, platform, channels, content_hash, tuple(conda), tuple(pip))


def _once(path: Path, items: list[_Item]) -> list[_Item]:
    """Drop the repetitions of a package that stands in several categories. Raises InputError for two of one name."""
    found: dict[str, _Item] = {}
    for item in items:
        other = found.setdefault(item.name, item)
        if (other.sha256, other.file_name) != (item.sha256, item.file_name):
            raise InputError(f"{path}: has {item.name} twice: {other.file_name} and {item.file_name}", _REMEDY)
    return list(found.values())


def _parse_entry(where: str, entry: dict, sizes: dict[str, int], conda: list[CondaArtefact], pip: list[PipPin]) -> None:
    remedy = _REMEDY
    for key in ("name", "version", "manager", "url"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise InputError(f"{where}: package {entry.get('name')!r} has no '{key}'", remedy)
    if entry["manager"] == "conda" and entry["name"].startswith("__"):
        return  # a virtual package: of the machine that it was locked for
    hashes = entry.get("hash") or {}
    sha256 = str(hashes.get("sha256") or "") if isinstance(hashes, dict) else ""
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InputError(f"{where}: {entry['name']} has no SHA-256; expected 64 hex digits, found {sha256!r}", remedy)
    dependencies = entry.get("dependencies") or {}
    if not isinstance(dependencies, dict):
        raise InputError(f"{where}: 'dependencies' of {entry['name']} must map names to versions", remedy)
    depends = tuple(f"{dep} {bound}".strip() for dep, bound in sorted(dependencies.items()))
    if entry["manager"] == "pip":
        file_name = unquote(entry["url"].rpartition("/")[2].partition("#")[0])
        pip.append(PipPin(entry["name"], entry["version"], sha256, file_name, sizes.get(sha256), depends))
        return
    if entry["manager"] != "conda":
        raise InputError(f"{where}: {entry['name']}: manager must be conda or pip, not {entry['manager']!r}", remedy)
    channel, subdir, file_name = split_url(entry["url"])
    try:
        name, version, build = split_archive(file_name)
    except ValueError as error:
        raise InputError(f"{where}: {error}", remedy) from error
    if subdir not in (entry["platform"], "noarch"):
        raise InputError(
            f"{where}: {name} is for {entry['platform']!r}, but its URL is in the subdir {subdir!r}", remedy
        )
    if name != entry["name"] or version != entry["version"]:
        raise InputError(f"{where}: {entry['name']} {entry['version']} has the URL of {name} {version}", remedy)
    conda.append(
        CondaArtefact(
            name,
            version,
            build,
            subdir,
            channel,
            file_name,
            f"{channel}/{subdir}/{file_name}",
            sha256,
            str(hashes.get("md5") or ""),
            sizes.get(sha256),
            depends,
        )
    )

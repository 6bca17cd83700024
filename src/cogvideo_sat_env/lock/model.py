"""A lock as typed values, read from conda-lock.yml (conda-lock's format, version 1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cogvideo_sat_env import yamlfile
from cogvideo_sat_env.errors import InputError

WHAT = "a conda-lock file (format version 1)"
WHEELHOUSE = "${SATENV_WHEELHOUSE}"  # stands for the folder or site that holds the pip files; pip expands it
_ARCHIVE = re.compile(r"^(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)(?P<ext>\.conda|\.tar\.bz2)$")


@dataclass(frozen=True)
class CondaArtefact:
    """One conda package archive of a lock: exactly these bytes. `size` is in bytes, None when unknown."""

    name: str
    version: str
    build: str
    subdir: str
    channel: str  # base URL without the subdir
    file_name: str
    url: str
    sha256: str
    md5: str = ""
    size: int | None = None
    depends: tuple[str, ...] = ()

    @property
    def channel_path(self) -> str:
        """`<channel name>/<subdir>/<file>`: where a mirror keeps the archive."""
        return f"{urlsplit(self.channel).path.strip('/')}/{self.subdir}/{self.file_name}"


@dataclass(frozen=True)
class PipPin:
    """One file of a package index: name, version and SHA-256. Where it lies is the index's affair."""

    name: str
    version: str
    sha256: str
    file_name: str
    size: int | None = None
    depends: tuple[str, ...] = ()

    def requirement(self) -> str:
        """Return the line of a pip requirements file that admits this file only."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Lock:
    """The solution for one platform."""

    path: Path
    platform: str
    channels: tuple[str, ...]
    content_hash: str
    conda: tuple[CondaArtefact, ...]
    pip: tuple[PipPin, ...]


def split_url(url: str) -> tuple[str, str, str]:
    """Split a package URL into channel base URL, subdir and file name (decoded: solvers differ on `!` and `%21`)."""
    base, _, file_name = url.rpartition("/")
    channel, _, subdir = base.rpartition("/")
    return channel, subdir, unquote(file_name)


def split_archive(file_name: str) -> tuple[str, str, str]:
    """Split `name-version-build.conda` into its three parts.

    Raises ValueError when the file name isn't that of a conda package.
    """
    match = _ARCHIVE.match(file_name)
    if not match:
        raise ValueError(f"{file_name!r} is not `name-version-build.conda` or `.tar.bz2`")
    return match["name"], match["version"], match["build"]


def _platforms(path: Path, data: object, lines: yamlfile.Lines) -> tuple[str, ...]:
    if not isinstance(data, dict) or data.get("version") != 1:
        found = data.get("version") if isinstance(data, dict) else type(data).__name__
        raise InputError(
            f"{path}:{lines.of('version')}: expected {WHAT}; found version {found!r}",
            "make it again with: scripts/satenv lock",
        )
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("platforms"), list):
        raise InputError(f"{path}:{lines.of('metadata')}: expected metadata with a list of platforms", None)
    return tuple(metadata["platforms"])


def read_lock(path: Path, platform: str, sizes: dict[str, int] | None = None) -> Lock:
    """Read the solution for `platform` from the lock at `path`; `sizes` gives bytes by SHA-256.

    Raises InputError with file and line when the file is malformed or has no solution for the platform.
    """
    data, lines = yamlfile.load(path, WHAT)
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
            raise InputError(f"{where}: a package must be a mapping", "make the lock again: scripts/satenv lock")
        if entry.get("platform") != platform:
            continue
        _parse_entry(where, entry, sizes, conda, pip)
    metadata = data["metadata"]
    channels = tuple(str(c.get("url", "")) for c in metadata.get("channels") or [] if isinstance(c, dict))
    content_hash = str((metadata.get("content_hash") or {}).get(platform, ""))
    return Lock(path, platform, channels, content_hash, tuple(conda), tuple(pip))


def _parse_entry(where: str, entry: dict, sizes: dict[str, int], conda: list[CondaArtefact], pip: list[PipPin]) -> None:
    remedy = "make the lock again: scripts/satenv lock"
    for key in ("name", "version", "manager", "url"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise InputError(f"{where}: package {entry.get('name')!r} has no '{key}'", remedy)
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

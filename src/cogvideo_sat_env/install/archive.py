"""What the archives say about themselves, read before the first link: paths, placeholders, scripts, collisions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rattler.package_streaming import PackageArchive

from cogvideo_sat_env.errors import PrefixError, VerificationError
from cogvideo_sat_env.lock.model import CondaArtefact
from cogvideo_sat_env.progress import Progress

_PARALLEL = 16
_LINK_SCRIPT = re.compile(r"^bin/\.(?P<package>.+)-(?P<kind>post-link|pre-link|pre-unlink|post-unlink)\.sh$")
_SITE = re.compile(r"^(?:lib/python3\.\d+t?/)?site-packages/")

# Paths that nothing is loaded from: packages of conda-forge do ship such files twice, and either will do.
_HARMLESS = re.compile(
    r"(^|/)(LICEN[CS]E|COPYING|NOTICE|README|CHANGE|AUTHORS|INSTALLER|RECORD)[^/]*$|"
    r"\.(md|rst|txt|html|pdf|la|pyc)$|"
    r"^share/(doc|man|info|licenses?|examples?)/|"
    r"^<site>/(tests?|docs?|examples?|benchmarks?)/",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Archive:
    """One verified archive: its lock entry, where it lies, and its own info/index.json and info/paths.json."""

    artefact: CondaArtefact
    path: Path
    index_json: str
    index: Mapping[str, Any]
    paths: Sequence[Mapping[str, Any]]

    @property
    def installed_bytes(self) -> int:
        """Size in bytes of its files once linked."""
        return sum(int(entry.get("size_in_bytes") or 0) for entry in self.paths)

    @property
    def link_scripts(self) -> tuple[str, ...]:
        """Its link scripts: they are never run."""
        return tuple(str(e["_path"]) for e in self.paths if _LINK_SCRIPT.match(str(e["_path"])))


def read_archives(
    artefacts: Sequence[CondaArtefact], files: Mapping[str, Path], progress: Progress
) -> list[Archive]:
    """Read index.json and paths.json of every archive; `files` gives the verified file by SHA-256.

    Raises VerificationError when an archive isn't the package that the lock says, or has paths outside of a prefix.
    """

    async def read_all() -> list[Archive]:
        gate = asyncio.Semaphore(_PARALLEL)

        async def one(artefact: CondaArtefact) -> Archive:
            async with gate:
                archive = await _read(artefact, files[artefact.sha256])
                task.advance(1)
                return archive

        return list(await asyncio.gather(*(one(artefact) for artefact in artefacts)))

    with progress.task("Reading what the packages hold", len(artefacts), "packages") as task:
        return asyncio.run(read_all())


async def _read(artefact: CondaArtefact, path: Path) -> Archive:
    try:
        opened = await PackageArchive.from_path(path)
        found = await opened.read_files(["info/index.json", "info/paths.json"])
        index_json = (found["info/index.json"] or b"").decode("utf-8")
        index = json.loads(index_json)
        paths = json.loads((found["info/paths.json"] or b'{"paths": []}').decode("utf-8"))["paths"]
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise VerificationError(
            f"{path}: has the SHA-256 of the lock but is no readable conda package: {error}",
            "make the lock again with scripts/satenv lock, and tell the channel",
        ) from error
    said = (index.get("name"), index.get("version"), index.get("build"))
    if said != (artefact.name, artefact.version, artefact.build):
        raise VerificationError(
            f"{path}: expected {artefact.name} {artefact.version} {artefact.build}, found {' '.join(map(str, said))}",
            "the lock was changed by hand or the channel renamed a package: make it again with scripts/satenv lock",
        )
    for entry in paths:
        inside = PurePosixPath(str(entry["_path"]))
        if inside.is_absolute() or ".." in inside.parts:
            raise VerificationError(f"{path}: holds {str(inside)!r}, a path out of any prefix", "tell its channel")
    return Archive(artefact, path, index_json, index, paths)


def require_prefix_fits(prefix: Path, archives: Sequence[Archive]) -> None:
    """Raise PrefixError when `prefix` is longer than a placeholder in a binary file: it could not be put in."""
    length = len(str(prefix).encode("utf-8"))
    for archive in archives:
        for entry in archive.paths:
            placeholder = entry.get("prefix_placeholder")
            if entry.get("file_mode") == "binary" and placeholder and length > len(placeholder.encode("utf-8")):
                raise PrefixError(
                    f"{prefix}: {length} bytes long; {entry['_path']} of {archive.artefact.name} has room for "
                    f"{len(placeholder.encode('utf-8'))}",
                    "choose a shorter prefix with -p",
                )


def collisions(archives: Sequence[Archive]) -> list[str]:
    """Return the paths that two packages ship with different content, described; what matters at run time first.

    They are told, not refused: conda only warns as well, and a lock of published packages must install.
    """
    first: dict[str, tuple[str, object]] = {}
    harmful, harmless = [], []
    for archive in sorted(archives, key=lambda a: a.artefact.name):
        python = archive.index.get("noarch") == "python"
        for entry in archive.paths:
            if entry.get("path_type") == "directory":
                continue
            path = _SITE.sub("<site>/", str(entry["_path"]))
            if python and path.startswith("python-scripts/"):
                path = "bin/" + path.removeprefix("python-scripts/")
            name, content = archive.artefact.name, entry.get("sha256")
            other, other_content = first.setdefault(path, (name, content))
            if other != name and other_content != content:
                said = f"{path.replace('<site>', 'site-packages')}: both in {other} and in {name}"
                (harmless if _HARMLESS.search(path) else harmful).append(said)
    return [*harmful, *harmless]

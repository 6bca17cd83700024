"""repodata.json and .zst of a mirror's channels, for exactly its records, made from the packages' own metadata.

Dependencies follow the lock: channels correct the metadata of published packages ("hotfixes"), and the lock was solved
with the corrected ones.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from conda_package_streaming.package_streaming import stream_conda_info

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.source.mirror.selection import CondaFile, Part

_LEVEL = 19
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zstandard.ZstdError, OSError, EOFError, ValueError, LookupError)


@dataclass(frozen=True)
class Info:
    """What a package says of itself: info/index.json, and the bytes of its files once installed."""

    index: dict[str, Any]
    installed_bytes: int


def read_info(path: Path) -> Info:
    """Read a package's metadata without unpacking it. Raises VerificationError when it can't be read."""
    found: dict[str, Any] = {}
    try:
        for tar, member in stream_conda_info(str(path)):
            if member.name in ("info/index.json", "info/paths.json"):
                found[member.name] = json.loads(tar.extractfile(member).read().decode("utf-8"))
                if len(found) == 2:
                    break
        if not isinstance(found.get("info/index.json"), dict):
            raise ValueError("it has no info/index.json")
        paths = found.get("info/paths.json", {}).get("paths", [])
        size = sum(int(entry.get("size_in_bytes") or 0) for entry in paths)
    except (*_DAMAGED, TypeError, AttributeError) as error:
        raise VerificationError(
            f"{path}: has the SHA-256 of the lock but is no readable conda package: {error}",
            "tell the channel; a lock that names another build of the package gets by without it",
        ) from error
    return Info(found["info/index.json"], size)


def record(item: CondaFile, index: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the repodata record of a package. Raises VerificationError when it is another package than locked."""
    artefact = item.artefact
    found = (index.get("name"), index.get("version"), index.get("build"))
    if found != (artefact.name, artefact.version, artefact.build):
        raise VerificationError(
            f"{item.path}: expected {artefact.name} {artefact.version} {artefact.build}, found "
            f"{' '.join(map(str, found))}",
            f"the lock was changed by hand or the channel renamed a package: {artefact.relock}",
        )
    made = dict(index) | {"subdir": artefact.subdir, "sha256": artefact.sha256, "size": size}
    made["depends"] = _depends(index.get("depends") or [], artefact.depends)
    if artefact.md5:
        made["md5"] = artefact.md5
    return made


def _depends(own: Sequence[str], locked: Sequence[str]) -> list[str]:
    """Return the package's own dependencies, with those that differ in the lock as there.

    A lock has one line a name: several bounds joined by commas, and no builds. What agrees as far as a lock tells stays
    as the package has it.
    """
    bounds = {_name(spec): spec for spec in locked}
    versions: dict[str, set[str]] = {}
    for spec in own:
        versions.setdefault(_name(spec), set()).update(_versions(spec))
    kept = []
    for spec in own:
        name = _name(spec)
        if name not in bounds:
            continue
        if versions[name] == _versions(bounds[name]):
            kept.append(spec)
        elif bounds[name] not in kept:
            kept.append(bounds[name])
    return kept + [spec for name, spec in bounds.items() if name not in versions]


def _name(spec: str) -> str:
    return re.match(r"[\w.-]*", spec)[0].lower()


def _versions(spec: str) -> set[str]:
    """Return the bounds on the version, none for any, as rattler writes them: `1.2`, `==1.2` and brackets are one."""
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    try:
        version = MatchSpec(spec).version
    except InvalidMatchSpecError:  # of a time when nobody looked; then the text decides
        return {" ".join(spec.split())}
    return set(str(version).split(",")) - {"*"} if version is not None else set()


def read_infos(parts: Iterable[Part], place: Callable[[CondaFile], Path]) -> dict[str, Info]:
    """Return the metadata of every package by its path in a mirror; `place` says where the file is."""
    items = list({item.path: item for part in parts for item in part.conda}.values())
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(lambda item: read_info(place(item)), items)
        return {item.path: info for item, info in zip(items, read, strict=True)}


def channel_files(
    parts: Iterable[Part], infos: Mapping[str, Info], size: Callable[[CondaFile], int]
) -> tuple[dict[str, bytes], dict[str, dict[str, int]]]:
    """Return the index files of every channel by path, and the count of records by channel and subdir."""
    subdirs: dict[tuple[str, str], dict[str, CondaFile]] = {}
    for part in parts:
        for channel in part.channels:
            for subdir in (part.platform, "noarch"):
                subdirs.setdefault((channel, subdir), {})
        for item in part.conda:
            channel, subdir, name = item.path.rsplit("/", 2)
            subdirs.setdefault((channel, subdir), {})[name] = item
    contents: dict[str, bytes] = {}
    counts: dict[str, dict[str, int]] = {}
    for (channel, subdir), files in sorted(subdirs.items()):
        records = {name: record(item, infos[item.path].index, size(item)) for name, item in files.items()}
        content = render(subdir, records)
        contents[f"{channel}/{subdir}/repodata.json"] = content
        contents[f"{channel}/{subdir}/repodata.json.zst"] = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
        counts.setdefault(channel, {})[subdir] = len(records)
    return contents, counts


def write_channels(folder: Path, parts: Iterable[Part]) -> dict[str, dict[str, int]]:
    """Write every channel's index below `folder`; return the count of records by channel and subdir."""
    parts = list(parts)
    infos = read_infos(parts, lambda item: folder / item.path)
    contents, counts = channel_files(parts, infos, lambda item: (folder / item.path).stat().st_size)
    for path, content in contents.items():
        write_atomically(folder / path, content)
    return counts


def render(subdir: str, records: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return repodata.json: the same records give the same bytes."""
    data = {
        "info": {"subdir": subdir},
        "packages": {name: value for name, value in records.items() if name.endswith(".tar.bz2")},
        "packages.conda": {name: value for name, value in records.items() if name.endswith(".conda")},
        "removed": [],
        "repodata_version": 1,
    }
    return (json.dumps(data, sort_keys=True, indent=1) + "\n").encode("utf-8")

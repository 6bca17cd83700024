"""Advisories in OSV's JSON format (https://ossf.github.io/osv-schema/): read, and asked about versions.

What the doctor checks in an environment and what `satenv audit` finds in locks and environments are this.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._prefix import key, parsed

if TYPE_CHECKING:
    from packaging.version import Version


PYPI = "PyPI"


@dataclass(frozen=True)
class AdvisoryHit:
    """One advisory that names an installed version; `fixed` are the versions that correct it.

    `judged` is False when it only names the package: one of the versions to compare isn't PEP 440.
    """

    id: str
    aliases: tuple[str, ...]
    name: str
    version: str
    summary: str
    fixed: tuple[str, ...]
    judged: bool = True


@dataclass
class Advisories:
    """What advisories say of packages: how many there are by ecosystem, what applies, what was accepted.

    `unjudged` are, by package and version, those that can't be compared with it.
    """

    count: int = 0
    ecosystems: Counter[str] = field(default_factory=Counter)
    hits: list[AdvisoryHit] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    unjudged: dict[str, list[str]] = field(default_factory=dict)


def search(path: Path, packages: Mapping[str, str], accepted: Collection[str] = ()) -> Advisories:
    """Return what the advisories in `path` say of `packages` (normalised PyPI name to version).

    `accepted` are ids or aliases that are left out. Raises what `read` and `hits` raise; ValueError, too, where there
    is no advisory, or none is about PyPI.
    """
    found = Advisories()
    for advisory in read(path):
        found.count += 1
        found.ecosystems.update(ecosystems(advisory))
        for hit in hits(advisory, packages):
            known = {hit.id, *hit.aliases}
            if known & set(accepted):
                found.accepted |= known & set(accepted)
            elif not hit.judged:
                found.unjudged.setdefault(f"{hit.name} {hit.version}", []).append(hit.id)
            else:
                found.hits.append(hit)
    if not found.count:
        raise ValueError(f"no advisories in {path}; expected a file or folder of OSV JSON")
    if not found.ecosystems[PYPI] and found.ecosystems:
        others = ", ".join(f"{name} ({count:,})" for name, count in found.ecosystems.most_common(3))
        raise ValueError(f"{path}: its advisories are about {others}; expected some about {PYPI}")
    return found


def ecosystems(advisory: dict[str, Any]) -> set[str]:
    """Return the ecosystems that an advisory is about, without their releases (Debian of Debian:12)."""
    packages = [item.get("package") for item in advisory.get("affected") or [] if isinstance(item, dict)]
    return {str(p.get("ecosystem", "")).partition(":")[0] for p in packages if isinstance(p, dict)} - {""}


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the advisories of a file (one, a list, or {"vulns": [...]}), of a folder of files, or of a zip of them.

    Raises ValueError, naming the file, for what isn't OSV JSON, OSError for what can't be read.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield from _parse(file.read_bytes(), str(file))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".json"):
                    yield from _parse(_member(archive, name, path), f"{path}:{name}")
    else:
        yield from _parse(path.read_bytes(), str(path))


def hits(advisory: dict[str, Any], installed: Mapping[str, str]) -> Iterator[AdvisoryHit]:
    """Yield what `advisory` says about `installed` (normalised PyPI name to version). Withdrawn ones say nothing.

    Raises ValueError, naming the advisory, for one that isn't as OSV's schema says.
    """
    if advisory.get("withdrawn"):
        return
    try:
        for affected in advisory.get("affected") or []:
            package = affected.get("package") or {}
            name = key(str(package.get("name", "")))
            if str(package.get("ecosystem", "")).partition(":")[0] != PYPI or name not in installed:
                continue
            version = installed[name]
            verdict = is_affected(version, affected)
            if verdict is not False:
                yield AdvisoryHit(
                    str(advisory["id"]), tuple(map(str, advisory.get("aliases") or [])), name, version,
                    " ".join(str(advisory.get("summary") or "").split()), tuple(fixed_in(affected)),
                    verdict is not None,
                )  # fmt: skip
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{advisory['id']}: {error}; expected an advisory in OSV's JSON format") from error


def is_affected(version: str, affected: dict[str, Any]) -> bool | None:
    """Evaluate OSV's `versions` and `ranges` as its schema says; ranges of git commits say nothing about versions.

    None: that can't be known, because the installed version, or one of those that it is compared with, isn't PEP 440.
    """
    public = version.partition("+")[0]  # a local build (2.10.0+cu128) has the faults of the release
    listed = [str(item) for item in affected.get("versions") or []]
    if public in listed:
        return True
    ours = parsed(public)
    if ours is not None and ours in map(parsed, listed):
        return True
    unknown = ours is None and bool(listed)
    for group in affected.get("ranges") or []:
        if group.get("type") not in ("ECOSYSTEM", "SEMVER"):
            continue
        inside = _inside(ours, group.get("events") or [])
        if inside:
            return True
        unknown = unknown or inside is None
    return None if unknown else False


def _inside(ours: Version | None, written: list[dict[str, Any]]) -> bool | None:
    """Return whether `ours` lies in one range of OSV's; None when one of its versions can't be compared."""
    events = []
    for event in written:
        for kind, text in event.items():
            if kind == "limit" and text == "*":
                continue
            bound = parsed(str(text))
            if ours is None or bound is None:
                return None
            events.append((bound, kind))
    inside = False
    for bound, kind in sorted(events, key=lambda item: (item[0], item[1] != "introduced")):
        if kind == "introduced" and ours >= bound:
            inside = True
        elif (kind in ("fixed", "limit") and ours >= bound) or (kind == "last_affected" and ours > bound):
            inside = False
    return inside


def fixed_in(affected: dict[str, Any]) -> list[str]:
    """Return the versions that an advisory says are fixed."""
    return [
        str(event["fixed"])
        for group in affected.get("ranges") or [] if group.get("type") in ("ECOSYSTEM", "SEMVER")
        for event in group.get("events") or [] if "fixed" in event
    ]  # fmt: skip


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: a password is wanted
        raise ValueError(f"{path}:{name}: {error}; expected a whole zip file") from error


def _parse(content: bytes, where: str) -> Iterator[dict[str, Any]]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}; expected advisories in OSV's JSON format") from error
    if isinstance(found, dict) and isinstance(found.get("vulns"), list):
        found = found["vulns"]
    for item in found if isinstance(found, list) else [found]:
        if not isinstance(item, dict) or not item.get("id") or not isinstance(item.get("affected") or [], list):
            raise ValueError(f"{where}: expected advisories in OSV's JSON format, with `id` and `affected`")
        yield item

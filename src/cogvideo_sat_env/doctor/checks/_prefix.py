"""What is recorded about a prefix: conda's records of files (conda-meta), and the distributions that Python finds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.version import Version

DECORDS = ("decord", "decord2", "eva-decord")  # distributions that install the same top-level module `decord`


@dataclass(frozen=True)
class Record:
    """One package as conda linked it; `paths` are the entries of paths_data (or of files, without hashes)."""

    name: str
    version: str
    build: str
    paths: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class PipDistribution:
    """One distribution as pip sees it; `info` is its metadata folder's name, `installer` who says to have put it."""

    name: str
    version: str
    info: str
    installer: str


def names(prefix: Path) -> dict[str, tuple[str, str]]:
    """Return version and build of every linked package, from the names of its records (a few milliseconds)."""
    found = {}
    for path in (prefix / "conda-meta").glob("*.json"):
        name, _, rest = path.stem.rpartition("-")
        name, _, version = name.rpartition("-")
        if name:
            found[name] = (version, rest)
    return found


def records(prefix: Path) -> Iterator[Record]:
    """Yield conda's records. Raises OSError or ValueError, naming the file, for one that can't be read."""
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            paths = (content.get("paths_data") or {}).get("paths")
            if paths is None:
                paths = [{"_path": name} for name in content["files"]]
            yield Record(content["name"], content["version"], content["build"], tuple(paths))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a record of conda's ({type(error).__name__}: {error})") from error


def distributions(site: Path) -> list[PipDistribution]:
    """Return the distributions whose metadata lies in the folder `site`, in order of name."""
    found = []
    for distribution in metadata.distributions(path=[str(site)]):
        name = distribution.metadata["Name"]
        folder = getattr(distribution, "_path", None)  # not public; without it a distribution is nobody's
        if name and folder is not None:
            installer = (distribution.read_text("INSTALLER") or "").strip()
            found.append(PipDistribution(name, distribution.version, Path(folder).name, installer))
    return sorted(found, key=lambda item: key(item.name))


@cache
def installed() -> dict[str, str]:
    """Return all distributions: normalised name to version, the first on sys.path winning, as with imports."""
    found: dict[str, Any] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(key(name), distribution.version or "")  # None: damaged metadata
    return found


def parsed(version: str) -> Version | None:
    """Return a version that can be compared; None for one that isn't PEP 440, as conda has (9e, 1_2)."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return None


def key(name: str) -> str:
    """Return a distribution's name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()

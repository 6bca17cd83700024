"""The tool's own wheels for the target: chosen by its Python and platform, fetched by their pinned hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError, SourceError
from cogvideo_sat_env.fetch.index import Index, IndexFile
from cogvideo_sat_env.source.wheels.metadata import MACHINES, markers_of

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
REQUIREMENTS = "scripts/tool-requirements.txt"
_GLIBC = 28  # 2.28: RHEL 8 and everything newer


def read_pins(path: Path) -> list[tuple[Requirement, frozenset[str]]]:
    """Return each requirement of a hash-pinned requirements file with its SHA-256s. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected the tool's pins", "restore the file") from error
    found = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        requirement, *hashes = line.split(" --hash=sha256:")
        found.append((Requirement(requirement.strip()), frozenset(value.strip() for value in hashes)))
    return found


def platform_tags(platform: str) -> list[str]:
    """Return the wheel platforms that a conda subdir's machines take, best first. Raises InputError."""
    if platform not in MACHINES:
        raise InputError(f"a bundle can't carry the tool for {platform}", f"there is: {', '.join(MACHINES)}")
    machine = MACHINES[platform]
    if platform.startswith("osx"):
        return list(mac_platforms((14, 0), machine))
    old = {12: "manylinux2010", 17: "manylinux2014", 5: "manylinux1"}
    tags = []
    for minor in range(_GLIBC, 4, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in old:
            tags.append(f"{old[minor]}_{machine}")
    return [*tags, f"linux_{machine}"]


def choose(
    pins: Sequence[tuple[Requirement, frozenset[str]]], index: Index, python: str, platform: str
) -> Iterator[tuple[PipPin, str]]:
    """Yield the wheel of every requirement that this Python on this platform needs, and its address.

    Raises SourceError when the index has none of the pinned wheels for it.
    """
    version = tuple(int(part) for part in python.split("."))
    platforms = platform_tags(platform)
    tags = [*cpython_tags(version, platforms=platforms)]
    tags += compatible_tags(version, interpreter=f"cp{python.replace('.', '')}", platforms=platforms)
    ranks = {tag: number for number, tag in reversed(list(enumerate(tags)))}
    environment = markers_of(python, platform)
    for requirement, hashes in pins:
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        best = min(
            (f for f in index.files(requirement.name) if f.sha256 in hashes),
            key=lambda file: _rank(file, ranks),
            default=None,
        )
        if best is None or _rank(best, ranks) == len(ranks):
            raise SourceError(
                f"the package index has no pinned wheel of {requirement} for Python {python} on {platform}",
                "ask a complete index (PIP_INDEX_URL), or leave that Python out with --python",
            )
        pinned = next(iter(requirement.specifier)).version
        yield PipPin(requirement.name, pinned, best.sha256, best.file_name, best.size), best.url


def _rank(file: IndexFile, ranks: dict[Tag, int]) -> int:
    try:
        tags = parse_wheel_filename(file.file_name)[3]
    except InvalidWheelFilename:
        return len(ranks)
    return min((ranks[tag] for tag in tags if tag in ranks), default=len(ranks))

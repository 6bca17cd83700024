"""What is known of an archive by its SHA-256, where a lock doesn't say it: from committed sizes and frozen metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cogvideo_sat_env.base import git
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.lock.frozen import records
from cogvideo_sat_env.lock.render import SIZES, read_sizes

METADATA = "metadata"
EPOCH = 1577836800  # the time stamp of all that is built here, so that bytes don't depend on the day: says no age


@dataclass(frozen=True)
class Fact:
    """What channel metadata says of one archive. Size in bytes, `timestamp` in seconds since 1970 (UTC)."""

    size: int | None = None
    licence: str | None = None
    depends: tuple[str, ...] = ()
    timestamp: int | None = None


class Facts:
    """Facts by SHA-256: sizes at once, the metadata when something is asked that the sizes don't answer."""

    def __init__(
        self, sizes: Mapping[str, int], metadata: Callable[[], Mapping[str, Fact]], first: Facts | None = None
    ) -> None:
        """Take the metadata as what reads it; `first` is asked before it is read."""
        self.sizes, self._metadata, self._first = dict(sizes), metadata, first
        self._known: Mapping[str, Fact] | None = None

    def of(self, sha256: str) -> Fact:
        """Return what is known of the archive; an empty Fact for one that nothing is known of."""
        fact = self._first.of(sha256) if self._first else Fact()
        if fact != Fact():
            return fact
        if self._known is None:
            self._known = self._metadata()
        return self._known.get(sha256) or Fact()

    def size(self, sha256: str) -> int | None:
        """Return the bytes of the archive, None when they aren't known."""
        return self.sizes.get(sha256) or self.of(sha256).size


NONE = Facts({}, dict)


def of_project(root: Path) -> Facts:
    """Return what the project at `root` carries: locks/sizes.json, metadata/."""
    return Facts(read_sizes(root), lambda: _read_folder(root / METADATA))


def of_revision(folder: Path, revision: str, else_ask: Facts) -> Facts:
    """Return what the git revision carries, and what `else_ask` knows of archives that it says nothing of."""

    def metadata() -> dict[str, Fact]:
        try:
            names = git.output(folder, "ls-tree", "-r", "--full-tree", "--name-only", "-z", revision, f"{METADATA}/")
        except InputError:
            names = b""
        found: dict[str, Fact] = {}
        for name in sorted(filter(_is_repodata, names.decode().split("\0"))):
            found |= _facts(records(git.output(folder, "cat-file", "blob", f"{revision}:{name}"), name))
        return found

    try:
        sizes = json.loads(git.output(folder, "cat-file", "blob", f"{revision}:{SIZES}"))
    except (InputError, ValueError):
        sizes = {}
    return Facts(else_ask.sizes | (sizes if isinstance(sizes, dict) else {}), metadata, else_ask)


def _is_repodata(name: str) -> bool:
    return name.endswith(("/repodata.json.zst", "/repodata.json"))


@cache
def _read_folder(folder: Path) -> dict[str, Fact]:
    found: dict[str, Fact] = {}
    for path in sorted(folder.rglob("repodata.json*")):
        if _is_repodata(path.as_posix()):
            found |= _facts(records(path.read_bytes(), str(path)))
    return found


def _facts(entries: Iterable[dict]) -> dict[str, Fact]:
    return {str(entry["sha256"]): fact(entry) for entry in entries if entry.get("sha256")}


def fact(record: Mapping) -> Fact:
    """Return what a repodata record, info/index.json or a record in conda-meta says."""
    size = record.get("size")
    return Fact(
        size if isinstance(size, int) and size > 0 else None,
        str(record.get("license") or "").strip() or None,
        tuple(map(str, record.get("depends") or ())),
        seconds(record.get("timestamp")),
    )


def seconds(timestamp: object) -> int | None:
    """Return a record's time stamp (milliseconds, in old ones seconds) in seconds; None for none, or a made-up one."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)) or timestamp <= 0:
        return None
    found = int(timestamp / 1000 if timestamp > 1e11 else timestamp)
    return None if found == EPOCH else found

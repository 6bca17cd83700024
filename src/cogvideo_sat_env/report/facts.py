"""What is known of an archive by its SHA-256, where a lock doesn't say it: from committed sizes and frozen metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from cogvideo_sat_env.base import git
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.lock import pip_index
from cogvideo_sat_env.lock.frozen import records
from cogvideo_sat_env.lock.render import SIZES, read_sizes

METADATA = "metadata"


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
        self, sizes: Mapping[str, int], metadata: Callable[[], Mapping[str, dict]], first: Facts | None = None
    ) -> None:
        """Take the metadata as what reads it; `first` is asked before it is read."""
        self.sizes, self._metadata, self._first = dict(sizes), metadata, first
        self._known: Mapping[str, dict] | None = None

    def of(self, sha256: str) -> Fact:
        """Return what is known of the archive; an empty Fact for one that nothing is known of."""
        found = self._first.of(sha256) if self._first else Fact()
        if found != Fact():
            return found
        if self._known is None:
            self._known = self._metadata()
        record = self._known.get(sha256)  # one of tens of thousands, of which hundreds are asked for
        return Fact() if record is None else fact(record)

    def size(self, sha256: str) -> int | None:
        """Return the bytes of the archive, None when they aren't known."""
        return self.sizes.get(sha256) or self.of(sha256).size


NONE = Facts({}, dict)


def of_project(root: Path) -> Facts:
    """Return what the project at `root` carries: locks/sizes.json, metadata/."""
    return Facts(read_sizes(root), lambda: _read_folder(root / METADATA))


def of_revision(folder: Path, revision: str, else_ask: Facts) -> Facts:
    """Return what the git revision carries, and what `else_ask` knows of archives that it says nothing of."""

    def metadata() -> dict[str, dict]:
        try:
            names = git.output(folder, "ls-tree", "-r", "--full-tree", "--name-only", "-z", revision, f"{METADATA}/")
        except InputError:
            names = b""
        found: dict[str, dict] = {}
        for name in sorted(names.decode().split("\0")):
            if _is_metadata(name):
                found |= _read(git.output(folder, "cat-file", "blob", f"{revision}:{name}"), name)
        return found

    try:
        sizes = json.loads(git.output(folder, "cat-file", "blob", f"{revision}:{SIZES}"))
    except (InputError, ValueError):
        sizes = {}
    return Facts(else_ask.sizes | (sizes if isinstance(sizes, dict) else {}), metadata, else_ask)


def _is_metadata(name: str) -> bool:
    return name.endswith(("/repodata.json.zst", "/repodata.json", f"/{pip_index.PATH}"))


def _read(content: bytes, name: str) -> dict[str, dict]:
    """Return the records in a file of frozen metadata, of a channel or of the index. Raises InputError."""
    if not name.endswith(pip_index.PATH):
        return {str(entry.get("sha256")): entry for entry in records(content, name)}
    files = (file for project in pip_index.parse(content, name).values() for file in project.files)
    return {file.sha256: {"size": file.size, "uploaded": file.uploaded} for file in files}


@cache
def _read_folder(folder: Path) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for path in sorted(folder.rglob("*.json*")):
        if _is_metadata(path.as_posix()):
            found |= _read(path.read_bytes(), str(path))
    return found


def fact(record: Mapping) -> Fact:
    """Return what a repodata record, info/index.json, a record in conda-meta or a file of an index says."""
    size = record.get("size")
    return Fact(
        size if isinstance(size, int) and size > 0 else None,
        str(record.get("license") or "").strip() or None,
        tuple(map(str, record.get("depends") or ())),
        _uploaded(record["uploaded"]) if "uploaded" in record else seconds(record.get("timestamp")),
    )


def _uploaded(text: str) -> int | None:
    """Return the moment (ISO 8601, UTC) that an index gives for a file, which it needn't."""
    try:
        return int(datetime.fromisoformat(f"{text}+00:00").timestamp())
    except ValueError:
        return None


def seconds(timestamp: object) -> int | None:
    """Return a record's time stamp (milliseconds, in old ones seconds) in seconds; None for none, or a made-up one."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)) or timestamp <= 0:
        return None
    found = int(timestamp / 1000 if timestamp > 1e11 else timestamp)
    return None if found == EPOCH else found  # what is built here: says no age

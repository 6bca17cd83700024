"""Byte verification of a prefix: every file against the hash that was recorded when it was linked."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._prefix import Record

_CHUNK = 1024 * 1024
_CODE = (".py", ".so")


@dataclass(frozen=True)
class RecordedFile:
    """One recorded file: whose it is, its path below the prefix, its size in bytes and SHA-256 where recorded."""

    owner: str
    path: str
    size: int | None
    sha256: str | None


@dataclass
class FileFindings:
    """What verification found: paths by package of what is missing or was changed; the counts say what was hashed."""

    missing: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)
    hashed: int = 0
    hashed_bytes: int = 0
    not_hashed: int = 0


def items(records: Iterable[Record], receipt_files: Mapping[str, Mapping[str, Any]]) -> tuple[list[RecordedFile], int]:
    """Return the recorded files, and how many bytecode files are left out: Python writes those again as it likes.

    `receipt_files` are the files that pip and this program put there.
    """
    found: dict[str, RecordedFile] = {}
    bytecode = 0
    for record in records:
        for entry in record.paths:
            path, kind = str(entry["_path"]), entry.get("path_type", "hardlink")
            if path.endswith(".pyc") or kind == "pyc_file":
                bytecode += 1
            elif kind == "softlink":  # its target is another entry, or outside the prefix: it only has to be there
                found[path] = RecordedFile(record.name, path, None, None)
            elif kind == "directory":
                continue
            else:
                # with the prefix written into it a file has another hash, and another size unless it is a binary
                patched, rewritten = entry.get("sha256_in_prefix"), bool(entry.get("prefix_placeholder"))
                size = None if entry.get("file_mode") == "text" else entry.get("size_in_bytes")
                sha256 = patched or (None if rewritten else entry.get("sha256"))
                found[path] = RecordedFile(record.name, path, size, sha256)
    for path, entry in receipt_files.items():
        if path.endswith(".pyc"):
            bytecode += 1
        elif path != "conda-meta/state":  # variables may be the user's own affair: `conda env config vars set`
            found[path] = RecordedFile("the receipt", path, entry.get("size"), entry.get("sha256"))
    return list(found.values()), bytecode


def verify(prefix: Path, wanted: list[RecordedFile], seconds: float) -> FileFindings:
    """Compare the size of every file and, for at most about `seconds`, the SHA-256: code first, then by size."""
    result = FileFindings()
    deadline = time.monotonic() + seconds
    left = []
    for item in wanted:
        problem = _size_problem(prefix / item.path, item)
        if problem == "missing":
            result.missing.setdefault(item.owner, []).append(item.path)
        elif problem == "changed":
            result.changed.setdefault(item.owner, []).append(item.path)
        elif item.sha256 is not None:
            left.append(item)
    left.sort(key=lambda item: (not item.path.endswith(_CODE) and ".so." not in item.path, item.size or 0))

    def digest(item: RecordedFile) -> str | None:
        return None if time.monotonic() > deadline else _sha256(prefix / item.path)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashlib lets other threads run
        for item, found in zip(left, pool.map(digest, left), strict=True):
            if found is None:
                result.not_hashed += 1
                continue
            result.hashed += 1
            result.hashed_bytes += item.size or 0
            if found != item.sha256:
                result.changed.setdefault(item.owner, []).append(item.path)
    return result


def _size_problem(path: Path, item: RecordedFile) -> str | None:
    known = item.sha256 is not None or item.size is not None
    try:
        found = os.stat(path) if known else os.lstat(path)
    except OSError:
        return "missing"
    if known and not stat.S_ISREG(found.st_mode):
        return "changed"
    return "changed" if item.size is not None and found.st_size != item.size else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as stream:
            while piece := stream.read(_CHUNK):
                digest.update(piece)
    except OSError as error:  # unreadable is as bad as changed
        return f"can't be read: {error.strerror}"
    return digest.hexdigest()

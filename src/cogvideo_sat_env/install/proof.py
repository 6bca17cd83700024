"""What was proven of an extracted package, so that it needn't be hashed again and any change to it is noticed.

A package is extracted from an archive that has the lock's SHA-256; then size, modification time and inode of every file
are noted beside it. While they stay as noted the files count as unchanged (as git and make judge); `hash_files` reads
every byte instead.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.errors import VerificationError
from cogvideo_sat_env.install.hashing import sha256_file

SCHEMA = 2


@dataclass(frozen=True)
class Proof:
    """The extracted package in `folder` came from the archive with this SHA-256 and size in bytes."""

    folder: Path
    sha256: str
    archive_size: int


def changed(path: Path, folder: Path) -> str | None:
    """Return the first file in `folder` that is not as the proof in `path` noted it, or None."""
    try:
        facts = json.loads(path.read_bytes().partition(b"\n")[2])
    except (OSError, ValueError):
        return path.name
    base = f"{folder}/"
    for name, noted in facts.items():
        try:
            found = os.lstat(base + name)
        except OSError:
            return name
        if [found.st_size, found.st_mtime_ns, found.st_ino] != noted:
            return name
    return None


def write(path: Path, proof: Proof, found: Mapping[str, os.stat_result]) -> None:
    """Write to `path`, whole or not at all, that the files `found` are those of `proof`.

    Two lines, because the first is read more often than the second.
    """
    head = {
        "schema": SCHEMA, "folder": str(proof.folder), "sha256": proof.sha256, "archive_size": proof.archive_size
    }  # fmt: skip
    facts = {name: (s.st_size, s.st_mtime_ns, s.st_ino) for name, s in found.items()}
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(f"{json.dumps(head)}\n{json.dumps(facts)}\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> Proof | None:
    """Return the proof in `path`, or None when there is none that this version understands."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.loads(stream.readline())
        if found["schema"] != SCHEMA:
            return None
        return Proof(Path(found["folder"]), found["sha256"], found["archive_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def walk(folder: str, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield path (relative to `folder`) and stat of everything below it that is no directory."""
    with os.scandir(f"{folder}/{inside}") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from walk(folder, f"{inside}{entry.name}/")
            else:
                yield inside + entry.name, entry.stat(follow_symlinks=False)


def read_paths(folder: Path) -> list[dict[str, Any]]:
    """Return the `paths` of the info/paths.json of the extracted package in `folder`.

    Very old packages have no such file; then rattler makes the list out of what they have. Raises VerificationError.
    """
    try:
        return json.loads((folder / "info" / "paths.json").read_bytes())["paths"]
    except FileNotFoundError:
        from rattler.package import PathsJson

        old = PathsJson.from_package_directory_with_deprecated_fallback(folder)
        kinds = {"hardlink": "hardlink", "softlink": "softlink", "directory": "directory"}
        return [
            {"_path": entry.relative_path, "path_type": next(kind for kind in kinds if getattr(entry.path_type, kind))}
            for entry in old.paths
        ]
    except (ValueError, KeyError, TypeError) as error:
        why = f"{folder.name}: its info/paths.json can't be read: {error}"
        raise VerificationError(why, "tell its channel") from error


def hash_files(folder: Path, paths: Sequence[Mapping[str, Any]]) -> str | None:
    """Hash every file of an extracted package; return the first that differs from the package's own list, or None."""
    real = os.path.realpath(folder)
    for entry in paths:
        path = folder / str(entry["_path"])
        expected = entry.get("sha256")
        try:
            if not expected or not stat.S_ISREG(os.stat(path).st_mode):
                os.lstat(path)
            elif os.path.realpath(path).startswith(f"{real}/") and sha256_file(path) != expected:
                return str(entry["_path"])
        except OSError:
            if entry.get("path_type") != "softlink" or not path.is_symlink():  # a link may lead into another package
                return str(entry["_path"])
    return None

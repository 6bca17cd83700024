"""What an extracted package holds, so that it needn't be hashed again and any change to it is noticed.

A package is extracted from an archive that has the lock's SHA-256; then size, modification time and inode of every file
are recorded beside it. While they stay so, and owner and mode are right, the files count as unchanged (as git and make
judge): only the owner can have changed one and set its time back. `--verify full` compares with the archive instead.

Three lines of JSON: what it is about; files that are not plain; the plain ones, which are the same in every prefix
(with the SHA-256 that the package lists for them). Only the standard library is imported: package_files.py reads it in
many processes.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.permissions import SHARED_FILE, SHARED_PROGRAM, only_owner_writes

SCHEMA = 4
_MODES = frozenset({stat.S_IFREG | SHARED_FILE, stat.S_IFREG | SHARED_PROGRAM})
Fact = list[Any]  # size in bytes, modification time in ns, inode; of a plain file also its SHA-256


@dataclass(frozen=True)
class PackageManifest:
    """The extracted package in `folder` is from the archive with this SHA-256 and size in bytes; written in `path`."""

    folder: Path
    sha256: str
    archive_size: int
    path: Path = field(default=Path(), compare=False)


def manifest_path(packages: Path, key: str) -> Path:
    """Return where the manifest of the package `key` lies in the folder of a cache that has the extracted ones."""
    return packages / f"{key}.manifest.json"


def changed(path: Path, folder: Path, plain: bool = True) -> str | None:
    """Return the first file in `folder` that is not as the manifest in `path` has it, or None.

    Without `plain` only the others are looked at.
    """
    try:
        facts = list(_facts(path, 1).items())
        if plain:
            facts += plain_files(path).items()
        owner = os.stat(folder).st_uid
    except (OSError, ValueError):
        return path.name
    base = f"{folder}/"
    for name, fact in facts:
        try:
            found = os.lstat(base + name)
        except OSError:
            return name
        if is_changed(found, fact, owner):
            return name
    return None


def is_changed(found: os.stat_result, fact: Fact, owner: int) -> bool:
    """Tell whether a file is not the one of the manifest, or could have been written by others than `owner`."""
    return (
        found.st_size != fact[0]
        or found.st_mtime_ns != fact[1]
        or found.st_ino != fact[2]
        or not is_only_of(owner, found)
    )


def is_only_of(owner: int, found: os.stat_result) -> bool:
    """Tell whether nobody but `owner` can write to a file, and its mode is one of the package cache's."""
    return found.st_uid == owner and (found.st_mode in _MODES or stat.S_ISLNK(found.st_mode))


def plain_files(path: Path) -> dict[str, Fact]:
    """Return the facts of the plain files of the manifest in `path`. Raises OSError, ValueError."""
    return _facts(path, 2)


def _facts(path: Path, line: int) -> dict[str, Fact]:
    with open(path, "rb") as stream:
        for _ in range(line):
            stream.readline()
        facts = json.loads(stream.readline())
    length = 3 if line == 1 else 4  # plain files have their SHA-256, too
    if not isinstance(facts, dict) or not all(type(fact) is list and len(fact) == length for fact in facts.values()):
        raise ValueError(f"{path}: line {line + 1} isn't what was written there")
    return facts


def is_plain(entry: Mapping[str, Any]) -> bool:
    """Tell whether a file of info/paths.json is the same in every prefix: nothing is written into it, it is no link.

    Whatever is unusual about its name or entry makes it another one, which rattler judges. Manifests have what this
    says: another rule needs another SCHEMA.
    """
    name = entry["_path"]
    return (
        entry.get("path_type") == "hardlink"
        and not entry.get("prefix_placeholder")
        and not entry.get("no_link")
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("size_in_bytes"), int)
        and not name.startswith(("/", ".", "info/", "conda-meta/"))
        and not name.endswith("/")
        and not ("//" in name or "/." in name or "\\" in name or "\n" in name or "\0" in name)
    )


def write(
    path: Path, manifest: PackageManifest, found: Mapping[str, os.stat_result], paths: Sequence[Mapping[str, Any]]
) -> None:
    """Write `manifest` to `path` in one step: it has the files `found`; `paths` are the package's own list."""
    beside = manifest.folder.parent == path.parent  # a cache may have several names: each mount has its own
    head = {
        "schema": SCHEMA, "folder": manifest.folder.name if beside else str(manifest.folder),
        "sha256": manifest.sha256, "archive_size": manifest.archive_size,
    }  # fmt: skip
    hashes = {entry["_path"]: entry["sha256"] for entry in paths if is_plain(entry)}
    plain = {name: [*fact_of(found[name]), sha256] for name, sha256 in hashes.items()}
    others = {name: fact_of(there) for name, there in found.items() if name not in hashes}
    text = "".join(f"{json.dumps(line)}\n" for line in (head, others, plain))
    write_atomically(path, text.encode("utf-8"), durable=False)


def fact_of(found: os.stat_result) -> Fact:
    """Return what is recorded of a file: size in bytes, modification time in ns, inode."""
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def read(path: Path) -> PackageManifest | None:
    """Return the manifest in `path`, or None when there is none that this version understands and can trust."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.loads(stream.readline())
            if found["schema"] != SCHEMA or not only_owner_writes(os.fstat(stream.fileno())):
                return None
        return PackageManifest(path.parent / found["folder"], found["sha256"], found["archive_size"], path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path (relative to `folder`) and stat of everything below it that is no directory."""
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(f"{folder}/{inside}") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{inside}{entry.name}/")
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
        kinds = ("hardlink", "softlink", "directory")
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

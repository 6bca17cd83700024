"""What lies in the cache, by kind, how much room it takes and how much of it deleting would really free.

A file that has another name outside of what is deleted (a hard link, as from an environment) frees nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.files import PARTIAL

DOWNLOADS, EXTRACTED, CONVERTED = "downloads", "extracted packages", "converted wheels"
BYTECODE, TOOLS, BUNDLES, LOGS = "bytecode", "tools", "bundle projects", "logs"
LEFTOVERS, OTHER = "leftovers", "other"
KINDS = (DOWNLOADS, EXTRACTED, CONVERTED, BYTECODE, TOOLS, BUNDLES, LOGS, LEFTOVERS, OTHER)
# folders of the cache whose entries are folders, each whole by itself
_FOLDERS = {
    "files": DOWNLOADS, "built": CONVERTED, "packages": CONVERTED, "channels": CONVERTED, "tool": TOOLS, "test": TOOLS,
    "s3": TOOLS, "bundles": BUNDLES, "build-logs": LOGS, "tmp": LEFTOVERS,
}  # fmt: skip
_OWN = {*_FOLDERS, "artefacts", "pkgs", "bytecode"}
_BLOCK = 512  # bytes: the unit of st_blocks


@dataclass(frozen=True)
class CacheEntry:
    """One thing that can be deleted by itself; `paths` in the order to delete them, `used` is a time (Unix seconds)."""

    kind: str
    name: str
    paths: tuple[Path, ...]
    used: float


def read_contents(cache: Path) -> list[CacheEntry]:
    """Return everything in `cache`, sorted by kind and name. Raises OSError."""
    found = [
        *_plain_folders(cache), *_archives(cache), *_extracted(cache), *_bytecode(cache), *_rest(cache)
    ]  # fmt: skip
    return sorted(found, key=lambda entry: (KINDS.index(entry.kind), entry.name, entry.paths))


def _plain_folders(cache: Path) -> Iterator[CacheEntry]:
    for name, kind in _FOLDERS.items():
        for path in _children(cache / name):
            if path.suffix == ".lock":
                continue
            is_left = path.name.startswith((".", "unpack-"))
            yield _entry(LEFTOVERS if is_left else kind, f"{name}/{path.name}", path)


def _archives(cache: Path) -> Iterator[CacheEntry]:
    for folder in (path for first in _children(cache / "artefacts") for path in _children(first)):
        names = [path.name for path in _children(folder)]
        unfinished = not any(not name.endswith(".partial") for name in names)
        yield _entry(LEFTOVERS if unfinished else DOWNLOADS, f"artefacts/{folder.name}", folder)


def _extracted(cache: Path) -> Iterator[CacheEntry]:
    packages = cache / "pkgs"
    for path in _children(packages):
        if path.suffix == ".lock":
            continue
        manifest = packages / f"{path.name}.manifest.json"
        if path.name.startswith(".") or path.match(PARTIAL) or path.name.endswith(".proof.json"):
            yield _entry(LEFTOVERS, f"pkgs/{path.name}", path)
        elif path.is_dir():
            yield CacheEntry(EXTRACTED, path.name, (manifest, path), _used(manifest) or _used(path))
        elif (
            path.name.endswith(".manifest.json") and not (packages / path.name.removesuffix(".manifest.json")).is_dir()
        ):
            yield _entry(EXTRACTED, path.name, path)  # of a package in a layer


def _bytecode(cache: Path) -> Iterator[CacheEntry]:
    for python in _children(cache / "bytecode"):
        for path in _children(python):
            if path.name.startswith("."):
                yield _entry(LEFTOVERS, f"bytecode/{python.name}/{path.name}", path)
            elif path.is_dir():
                facts = path.with_name(f"{path.name}.json")
                yield CacheEntry(BYTECODE, f"{python.name}/{path.name}", (facts, path), _used(facts) or _used(path))


def _rest(cache: Path) -> Iterator[CacheEntry]:
    for path in _children(cache):
        if path.name in _OWN or path.suffix == ".lock":
            continue
        yield _entry(LEFTOVERS if path.name.startswith(("pip-", "satenv-")) else OTHER, path.name, path)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _entry(kind: str, name: str, path: Path) -> CacheEntry:
    return CacheEntry(kind, name, (path,), _used(path))


def _used(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


class Room:
    """The room that entries take: every file of them is looked at once, and known by its inode."""

    def __init__(self, entries: Iterable[CacheEntry]) -> None:
        self._files: dict[tuple[int, int], tuple[int, int]] = {}  # inode -> links, bytes
        self._of: dict[CacheEntry, list[tuple[int, int]]] = {}
        for entry in entries:
            self._of[entry] = inodes = []
            for found in _stats(entry.paths):
                inode = (found.st_dev, found.st_ino)
                self._files[inode] = (found.st_nlink, found.st_blocks * _BLOCK)
                inodes.append(inode)

    def taken(self, entries: Collection[CacheEntry]) -> int:
        """Return the bytes of all files of `entries`, each file once."""
        return sum(self._files[inode][1] for inode in {inode for entry in entries for inode in self._of[entry]})

    def freed(self, entries: Collection[CacheEntry]) -> int:
        """Return the bytes that are free when all of `entries` are deleted."""
        names: dict[tuple[int, int], int] = {}
        for entry in entries:
            for inode in self._of[entry]:
                names[inode] = names.get(inode, 0) + 1
        return sum(self._files[inode][1] for inode, count in names.items() if self._files[inode][0] <= count)


def _stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    folders = [str(path) for path in paths]
    while folders:
        path = folders.pop()
        try:
            found = os.lstat(path)
            if stat.S_ISDIR(found.st_mode):
                folders += [entry.path for entry in os.scandir(path)]
            else:
                yield found
        except (FileNotFoundError, PermissionError):
            continue  # another run has just deleted it, or it isn't this user's to delete

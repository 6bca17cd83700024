"""Bytecode of noarch Python packages, compiled once for all prefixes that have the same Python.

CACHE/bytecode/TAG/KEY/       the bytecode of an extracted package, by its paths in the package; TAG names the very
                              build of Python, because the same environment is to get the same bytes
CACHE/bytecode/TAG/KEY.json   size, modification time and inode of each file, as in proof.py, and the time and size of
                              the source that its header names
CACHE/bytecode/TAG/lock       held while something is kept there

A source counts as the package's own only while it is one file with the extracted, proven one (a hard link). One that
was written for the prefix, copied, or belongs to another package is compiled in place.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock

from cogvideo_sat_env.install import space
from cogvideo_sat_env.install.archive import Package
from cogvideo_sat_env.install.plainfiles import cached_path, read_bytecode_facts
from cogvideo_sat_env.install.prefixpython import PrefixPython
from cogvideo_sat_env.install.store import key

_HEADER = 16  # bytes: magic number, flags, then modification time and size of the source (PEP 552)


class BytecodeCache:
    """The bytecode in `cache` for `python`. With `full` nothing is taken from it: everything is compiled anew."""

    def __init__(self, cache: Path, python: PrefixPython, full: bool = False) -> None:
        self._cache, self._full = cache, full
        self._root, self._site, self._tag = str(python.root), python.paths["purelib"], python.cache_tag
        self._folder = cache / "bytecode" / f"{python.cache_tag}.{python.build}"

    def own_sources(self, package: Package, names: Iterable[str]) -> dict[str, str]:
        """Return those of `names` (relative to the prefix) that are hard links to the package's, with their path there.

        `names` are Python files that the package has no bytecode of.
        """
        own = {}
        for name in names:
            if not name.startswith(f"{self._site}/"):
                continue
            inside = f"site-packages/{name[len(self._site) + 1 :]}"
            with contextlib.suppress(FileNotFoundError):  # another package's file was put there instead
                if os.path.samestat(os.lstat(f"{package.folder}/{inside}"), os.lstat(f"{self._root}/{name}")):
                    own[name] = inside
        return own

    def job(self, package: Package) -> dict[str, str]:
        """Return the arguments of `link_bytecode` (plainfiles.py) that tell where the bytecode of `package` is kept."""
        noted = "" if self._full else str(self._noted(package))
        return {
            "folder": str(package.folder), "tag": self._tag, "kept": f"{self._folder}/{key(package.artefact)}",
            "noted": noted,
        }  # fmt: skip

    def keep(self, package: Package, own: Mapping[str, str]) -> None:
        """Keep the bytecode that was made in the prefix of the sources `own`. A read-only cache is left as it is.

        Raises PrefixError (no space).
        """
        if not os.access(space.existing(self._folder), os.W_OK | os.X_OK):
            return
        with space.watch(self._cache, "the bytecode in the package cache"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock"):
                self._keep(package, own)

    def _keep(self, package: Package, own: Mapping[str, str]) -> None:
        name = key(package.artefact)
        folder, noted = self._folder / name, self._noted(package)
        scratch, gone = self._folder / f".{name}.partial", self._folder / f".{name}.gone"
        _remove(scratch)  # of a killed run: whoever holds the lock is alone
        _remove(gone)
        made = {n: cached_path(inside, self._tag) for n, inside in own.items()}
        made = {n: kept for n, kept in made.items() if os.path.lexists(f"{self._root}/{cached_path(n, self._tag)}")}
        before = read_bytecode_facts(str(noted))
        if not self._full and all(self._fits(before, str(folder), kept, n) for n, kept in made.items()):
            return  # another run has just kept the same
        facts = {}
        try:
            for source, kept in made.items():
                target = scratch / kept
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(f"{self._root}/{cached_path(source, self._tag)}", target)
                except OSError as error:
                    if error.errno in space.FULL:
                        raise
                    return  # a file system without links between the two: nothing is kept
                with open(target, "rb") as stream:
                    header = stream.read(_HEADER)
                facts[kept] = [*_noted_of(os.lstat(target)), *_named_in(header)]
            noted.unlink(missing_ok=True)
            if folder.exists():
                folder.rename(gone)
            scratch.rename(folder)
            _write(noted, facts)
        finally:
            _remove(scratch)
            _remove(gone)

    def _noted(self, package: Package) -> Path:
        return self._folder / f"{key(package.artefact)}.json"

    def _fits(self, facts: Mapping[str, object], folder: str, kept: str, name: str) -> bool:
        """Whether `kept` is as noted, and was made of what the source `name` in the prefix is now."""
        if kept not in facts:
            return False
        try:
            source = os.lstat(f"{self._root}/{name}")
            now = [*_noted_of(os.lstat(f"{folder}/{kept}")), int(source.st_mtime) & 0xFFFFFFFF, source.st_size]
        except OSError:
            return False
        return facts[kept] == now


def _noted_of(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _named_in(header: bytes) -> list[int]:
    """Return modification time and size of the source; of bytecode that is checked otherwise what fits no source."""
    if len(header) < _HEADER or int.from_bytes(header[4:8], "little") != 0:
        return [-1, -1]
    return [int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")]


def _write(path: Path, facts: Mapping[str, list[int]]) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)

"""`satenv cache list` and `prune`: what takes the room in the cache, and deleting what wasn't used for long."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import cache_use
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.files import remove
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.create.cache_contents import (
    BUNDLES,
    CONVERTED,
    DOWNLOADS,
    EXTRACTED,
    KINDS,
    LEFTOVERS,
    OTHER,
    TOOLS,
    CacheEntry,
    Room,
    read_contents,
)
from cogvideo_sat_env.source.wheels.lockfile import read_wheel_lock
from cogvideo_sat_env.spec.pypi_names import load_names

DAY = 86400.0
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
_UNLOCKED = (TOOLS, BUNDLES)  # may be in use by commands that haven't locked the cache yet


@dataclass(frozen=True)
class CacheListing:
    """What the cache holds: for each kind the count, the bytes, and those of them that deleting the kind would free."""

    cache: Path
    kinds: tuple[tuple[str, int, int, int], ...]
    taken: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, sizes in bytes."""
        kinds = [{"kind": k, "entries": n, "bytes": size, "freed_bytes": free} for k, n, size, free in self.kinds]
        return {"cache": str(self.cache), "bytes": self.taken, "kinds": kinds, "exit_code": 0}

    def to_text(self) -> str:
        """Return it as people read it."""
        lines = [f"{self.cache}: {human_bytes(self.taken)}", f"{'':20} {'entries':>8} {'size':>10} {'would free':>10}"]
        lines += [f"{k:20} {n:8,} {human_bytes(size):>10} {human_bytes(free):>10}" for k, n, size, free in self.kinds]
        return "\n".join([*lines, "Files that environments share are not freed by deleting them here."])


@dataclass(frozen=True)
class Pruned:
    """What was deleted (or would be), and what couldn't be, with the reason."""

    cache: Path
    removed: tuple[tuple[str, str], ...]
    freed: int
    dry_run: bool
    in_use: bool
    failed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, sizes in bytes."""
        return {
            "cache": str(self.cache), "dry_run": self.dry_run, "in_use": self.in_use, "freed_bytes": self.freed,
            "removed": [{"kind": kind, "name": name} for kind, name in self.removed],
            "warnings": list(self.failed), "exit_code": 0,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it as people read it."""
        counts = [(kind, sum(k == kind for k, _ in self.removed)) for kind in KINDS]
        listed = ", ".join(f"{count} {kind}" for kind, count in counts if count) or "nothing"
        verb, end = ("would delete", "to be freed") if self.dry_run else ("deleted", "freed")
        lines = [f"{self.cache}: {verb} {listed}; {human_bytes(self.freed)} {end}"]
        if self.in_use:
            lines.append("Another command uses the cache: what was used within a day was kept.")
        return "\n".join([*lines, *(f"warning: {why}" for why in self.failed)])


def list_cache(cache: Path) -> CacheListing:
    """Return what `cache` holds. Raises OSError."""
    entries = read_contents(cache)
    room = Room(entries)
    by_kind = {kind: [entry for entry in entries if entry.kind == kind] for kind in KINDS}
    kinds = tuple((kind, len(of), room.taken(of), room.freed(of)) for kind, of in by_kind.items() if of)
    return CacheListing(cache, kinds, room.taken(entries))


@dataclass(frozen=True)
class Kept:
    """What lock files name: the SHA-256 of all their files, and conda name and version of what wheels become."""

    sha256: frozenset[str]
    wheels: frozenset[tuple[str, str]]


def read_kept(locks: Sequence[Path]) -> Kept:
    """Return what the lock files name: of conda-lock, explicit ones, wheel locks. Raises InputError."""
    hashes: set[str] = set()
    wheels: set[tuple[str, str]] = set()
    for path in locks:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: can't be read: {error}", "name a lock file with --keep-locks") from error
        found = set(_SHA256.findall(text))
        if not found:
            raise InputError(f"{path}: has no SHA-256 in it; expected a lock file", "name a lock with --keep-locks")
        hashes |= found
        if path.name.startswith("wheels-"):
            names, pins = load_names(), read_wheel_lock(path).pins
            wheels |= {(names.to_conda(pin.name), pin.version) for pin in pins}
            wheels |= {
                (conda, p.version) for conda, made in names.programs.items() for p in pins if p.name == made.pypi
            }
    return Kept(frozenset(hashes), frozenset(wheels))


def prune_cache(cache: Path, older_than: float, keep_locks: Sequence[Path] = (), dry_run: bool = False) -> Pruned:
    """Delete from `cache` what wasn't used for `older_than` seconds and what killed runs left.

    What the lock files `keep_locks` name is kept, however old; so is the tool that runs this. While another command
    uses the cache nothing is deleted that was used within a day, and that command still finds all it needs: what is
    missing is made again. Raises InputError (a lock that can't be read), PrefixError (the cache can't be written).
    """
    kept = read_kept(keep_locks)
    if not cache.is_dir():
        return Pruned(cache, (), 0, dry_run, False)
    with contextlib.ExitStack() as stack:
        try:
            nobody = stack.enter_context(cache_use.alone(cache))
        except OSError as error:
            raise PrefixError(
                f"{error.filename}: {error.strerror}; the cache can't be pruned", "run it as the cache's owner"
            ) from error
        entries = read_contents(cache)
        chosen = [entry for entry in entries if _is_due(entry, older_than, nobody) and not _is_kept(entry, kept)]
        room = Room(chosen)
        failed = {} if dry_run else {entry: why for entry in chosen if (why := _remove(entry))}
        removed = [entry for entry in chosen if entry not in failed]
    names = tuple((entry.kind, entry.name) for entry in removed)
    return Pruned(cache, names, room.freed(removed), dry_run, not nobody, tuple(failed.values()))


def _is_due(entry: CacheEntry, older_than: float, nobody: bool) -> bool:
    unused = time.time() - entry.used
    if entry.kind == OTHER:
        return False
    if entry.kind == LEFTOVERS:
        made_by_tool = entry.name.startswith(("tool/", "test/", "s3/", "bundles/."))
        return unused > DAY or (nobody and not made_by_tool)
    least = DAY if not nobody or entry.kind in _UNLOCKED else 0.0
    return unused >= max(older_than, least)


def _is_kept(entry: CacheEntry, kept: Kept) -> bool:
    path = entry.paths[-1]
    if entry.kind == TOOLS:
        return os.path.realpath(sys.prefix) == os.path.realpath(path)
    if entry.kind == DOWNLOADS:
        return path.name in kept.sha256
    if entry.kind == EXTRACTED:
        short = entry.name.removesuffix(".manifest.json").rpartition(".")[2]
        return any(sha256.startswith(short) for sha256 in kept.sha256) or _names(entry.name) in kept.wheels
    if entry.kind == CONVERTED:
        try:
            made = json.loads((path / "package.json").read_text(encoding="utf-8"))
            named = (made["name"], made["version"])
            return named in kept.wheels or (made["name"] == "python" and bool(kept.wheels))
        except (OSError, ValueError, KeyError, TypeError):
            return False
    return False


def _names(key: str) -> tuple[str, str]:
    name, version, _ = (key.removesuffix(".manifest.json").rpartition(".")[0]).rsplit("-", 2)
    return name, version


def _remove(entry: CacheEntry) -> str | None:
    """Delete an entry; return why it couldn't be. It is renamed first, so that nobody takes a half-deleted one."""
    for path in entry.paths:
        gone = path.with_name(f".{path.name}.{secrets.token_hex(4)}.gone")
        try:
            path.rename(gone)
            remove(gone)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{path}: can't be deleted: {error.strerror}"
    return None

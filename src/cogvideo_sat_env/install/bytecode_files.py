"""What is done with the bytecode of one noarch Python package's plain files: tasks of workers.py."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import cache_use
from cogvideo_sat_env.base.files import remove, write_atomically
from cogvideo_sat_env.base.permissions import SHARED_FILE, cache_umask, only_owner_writes
from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.install.package_files import SITE, cached_path, targets
from cogvideo_sat_env.install.package_manifest import fact_of

_HEADER = 16  # bytes: magic number, flags, then modification time and size of the source (PEP 552)


def link_bytecode(
    manifest_path: str, root: str, site: str, skip: Collection[str], tag: str, kept: str, anew: bool
) -> list[str]:
    """Link kept bytecode of the package's files into `root`; return the sources that have none then.

    `kept` is the folder of the package's bytecode; the .json beside it says what that was made of (bytecode.py).
    Nothing is taken from there if it is to be made `anew`.
    """
    facts = {} if anew else _read(kept)
    cache_use.mark_used(Path(f"{kept}.json"))
    owner = _owner(kept)
    shipped = {target for _, target, _ in targets(manifest_path, site, ())}
    lacking = []
    made: set[str] = set()
    for name, source, fact in targets(manifest_path, site, skip):
        cached = cached_path(source, tag)
        if not name.endswith(".py") or cached in shipped:
            continue
        if not name.startswith(SITE) or not _fits(facts, kept, cached_path(name, tag), f"{root}/{source}", fact, owner):
            lacking.append(source)
            continue
        parent, _, _ = cached.rpartition("/")
        if parent not in made:
            os.makedirs(f"{root}/{parent}", exist_ok=True)
            made.add(parent)
        try:
            os.link(f"{kept}/{cached_path(name, tag)}", f"{root}/{cached}")
        except OSError:
            # no links here, too many of them, or another run just replaces it: compiled in place, where a full disk is
            # reported
            lacking.append(source)
    return lacking


def keep_bytecode(
    manifest_path: str, root: str, site: str, skip: Collection[str], tag: str, kept: str, anew: bool
) -> None:
    """Keep the bytecode that is in `root` of the package's files, for other prefixes.

    One process at a time may do it for a package. Where no links are possible nothing is kept.
    """
    made = _made(manifest_path, root, site, skip, tag)
    before = {} if anew else _read(kept)
    owner = _owner(kept)
    if all(_fits(before, kept, inside, source, fact, owner) for inside, source, _, fact in made):
        return  # another run has just kept the same
    folder, name = os.path.split(kept)
    scratch, gone = f"{folder}/.{name}.partial", f"{folder}/.{name}.gone"
    facts = {}
    with cache_umask(), contextlib.ExitStack() as stack:
        for left in (scratch, gone):
            remove(Path(left))  # of a killed run
            stack.callback(remove, Path(left))
        for inside, _, compiled, _ in made:
            target = f"{scratch}/{inside}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            try:
                os.link(compiled, target)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return
            with open(target, "rb", buffering=0) as stream:
                os.fchmod(stream.fileno(), SHARED_FILE)  # prefixes of every umask will have it
                facts[inside] = [*fact_of(os.fstat(stream.fileno())), *_source_in(stream.read(_HEADER))]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{kept}.json")
        if os.path.lexists(kept):
            os.rename(kept, gone)
        os.rename(scratch, kept)
        write_atomically(Path(f"{kept}.json"), f"{json.dumps(facts)}\n".encode(), durable=False)


def _made(
    manifest_path: str, root: str, site: str, skip: Collection[str], tag: str
) -> list[tuple[str, str, str, package_manifest.Fact]]:
    """Return path in the package, source, bytecode and the source's facts of the bytecode that is in `root`.

    Only of sources that are the package's own: hard links to the verified files.
    """
    shipped = {target for _, target, _ in targets(manifest_path, site, ())}
    found = []
    for name, target, fact in targets(manifest_path, site, skip):
        cached = cached_path(target, tag)
        if not (name.endswith(".py") and name.startswith(SITE)) or cached in shipped:
            continue
        source, compiled = f"{root}/{target}", f"{root}/{cached}"
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(source).st_ino == fact[2] and os.path.lexists(compiled):
                found.append((cached_path(name, tag), source, compiled, fact))
    return found


def _owner(kept: str) -> int:
    """Return the user whose files in `kept` are believed: this one or root, or nobody (-1)."""
    try:
        found = os.stat(kept)
    except OSError:
        return -1
    return found.st_uid if only_owner_writes(found) else -1


def _fits(facts: dict[str, Any], kept: str, cached: str, source: str, fact: package_manifest.Fact, owner: int) -> bool:
    """Whether `cached` is as recorded, and made of `source`, a hard link to the package's file that `fact` is of."""
    known = facts.get(cached)
    if known is None:
        return False
    try:
        there, made = os.lstat(source), os.lstat(f"{kept}/{cached}")
    except OSError:
        return False
    now = [*fact_of(made), int(there.st_mtime) & 0xFFFFFFFF, there.st_size]
    return there.st_ino == fact[2] and known == now and package_manifest.is_only_of(owner, made)


def _source_in(header: bytes) -> list[int]:
    """Return modification time and size of the source; of bytecode that is checked otherwise what fits no source."""
    if len(header) < _HEADER or int.from_bytes(header[4:8], "little") != 0:
        return [-1, -1]
    return [int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")]


def _read(kept: str) -> dict[str, Any]:
    """Return what is recorded of a package's bytecode; nothing when it isn't there, not to be trusted or damaged."""
    try:
        with open(f"{kept}.json", encoding="utf-8") as stream:
            found = json.load(stream) if only_owner_writes(os.fstat(stream.fileno())) else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

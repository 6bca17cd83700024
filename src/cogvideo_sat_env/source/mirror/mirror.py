"""`satenv mirror`: fetch what is missing, prove everything, index it."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, SourceError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.locked import locked
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.base.simple_page import simple_page
from cogvideo_sat_env.fetch.index import Index
from cogvideo_sat_env.fetch.pip_config import index_urls
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.wanted import Policy, Wanted
from cogvideo_sat_env.source.mirror.repodata import write_channels
from cogvideo_sat_env.source.mirror.selection import WHEELHOUSE, Part, part_from_json
from cogvideo_sat_env.source.source import Source, parse_sources

SCHEMA = 1
RECORD = "mirror.json"
_STATE = ".satenv"


@dataclass(frozen=True)
class MirrorResult:
    """What a mirror holds now, and what had to be fetched for it. `bytes` are of all files, proven."""

    folder: Path
    variants: tuple[str, ...]
    conda: int
    pip: int
    bytes: int
    fetched: int
    fetched_bytes: int
    channels: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as documented in docs/airgap.md; the keys are stable."""
        return {**asdict(self), "folder": str(self.folder), "seconds": round(self.seconds, 3), "exit_code": 0}

    def to_text(self) -> str:
        """Return the result for people, with the commands that use it."""
        channels = " ".join(f"-c {(self.folder / name).as_uri()}" for name in self.channels)
        got = f"{self.fetched} files fetched ({human_bytes(self.fetched_bytes)})" if self.fetched else "nothing fetched"
        return (
            f"{self.folder}: {', '.join(self.variants)}: {self.conda} conda packages and {self.pip} pip files, "
            f"{human_bytes(self.bytes)}, every one with the lock's SHA-256; {got}\n\n"
            f"{satenv('create --source', f'mirror={self.folder}')}\n"
            f"mamba create -n NAME --override-channels {channels} SPECS…\n"
        ) + (
            f"pip install --no-index --find-links {self.folder / WHEELHOUSE} --no-deps --require-hashes "
            "-r locks/pip-….txt\n"
            if self.pip
            else ""
        )


def make_mirror(
    folder: Path,
    parts: Sequence[Part],
    *,
    mirrors: Sequence[str],
    policy: Policy,
    fast: bool,
    progress: Progress,
) -> MirrorResult:
    """Make `folder` hold every file of `parts`, proven, and channels of exactly what it holds.

    Variants that an earlier run put there stay. `mirrors` are sources (folders, addresses, "channel") in the order to
    try them; without any, the lock's channels. `fast` trusts files whose size and time are as when last proven.
    Raises InputError, SourceError, VerificationError, PrefixError; what is complete is kept for the next run.
    """
    start = time.perf_counter()
    folder = folder.absolute()
    with diskspace.watch(folder, "the mirror"), locked(folder / _STATE / "lock", folder):
        known = read_record(folder)
        state = _Verified(folder)
        source = parse_sources([m if m == "channel" else f"mirror={m}" for m in mirrors or ["channel"]])
        conda, pip = _conda_files(parts, folder, source), _pip_files(parts, folder / WHEELHOUSE, source)
        wanted = [*conda, *pip]
        fetched = fetch_files(
            wanted,
            title=f"Mirroring {len(wanted)} files",
            what="the mirror",
            progress=progress,
            policy=policy,
            trust=state.trust if fast else lambda _: False,
            ready=state.remember,
        )
        state.save()
        there = [part for part in known if all((folder / item.path).is_file() for item in part.conda)]
        whole = {part.variant: part for part in there} | {p.variant: p for p in parts}
        channels = write_channels(folder, whole.values())
        _write_pages(folder, whole.values())
        data = {"schema": SCHEMA, "variants": {name: part.to_json() for name, part in whole.items()}}
        write_atomically(folder / RECORD, (json.dumps(data, sort_keys=True, indent=1) + "\n").encode("utf-8"))
    return MirrorResult(
        folder,
        tuple(part.variant for part in parts),
        len(conda),
        len(pip),
        sum(item.path.stat().st_size for item in wanted),
        len(fetched),
        sum(item.path.stat().st_size for item in fetched),
        channels,
        time.perf_counter() - start,
    )


def _conda_files(parts: Sequence[Part], folder: Path, source: Source) -> list[Wanted]:
    """Return the conda packages as files wanted below `folder`, each once."""
    found: dict[str, Wanted] = {}
    for part in parts:
        for item in part.conda:
            urls = source.locate(item.artefact)
            _add(found, item.path, Wanted(
                item.artefact.file_name, folder / item.path, item.artefact.sha256, urls, item.artefact.size,
                item.artefact.relock,
            ))  # fmt: skip
    return list(found.values())


def _pip_files(parts: Sequence[Part], folder: Path, source: Source) -> list[Wanted]:
    """Return the pip files as wanted in `folder`: from the wheelhouses of mirrors, or from the index ("channel").

    The index isn't asked for what `folder` has already. Raises SourceError when it is the only one and lacks a file.
    """
    index = cache(lambda: Index(index_urls()))
    found: dict[str, Wanted] = {}
    for pin in {(pin.file_name, pin.sha256): pin for part in parts for pin in part.pip}.values():
        path = folder / pin.file_name
        there = path.is_file() and sha256_file(path) == pin.sha256
        urls = () if there else _pip_urls(pin, (source, *source.then), index)
        _add(found, pin.file_name, Wanted(pin.file_name, path, pin.sha256, urls, pin.size))
    return list(found.values())


def _pip_urls(pin: PipPin, sources: Sequence[Source], index: Callable[[], Index]) -> tuple[str, ...]:
    urls: tuple[str, ...] = ()
    failure: SourceError | None = None
    for source in sources:
        try:
            if source.kind == "channel":
                urls += index().locate(pin)
            else:
                urls += (source.where / f"{WHEELHOUSE}/{quote(pin.file_name)}",)
        except SourceError as error:  # of no account where another one has it
            failure = error
    if failure and not urls:
        raise failure
    return urls


def _add(found: dict[str, Wanted], key: str, wanted: Wanted) -> None:
    other = found.setdefault(key, wanted)
    if other.sha256 != wanted.sha256:
        what = f"{key}: the locks name two files so: {other.sha256} and {wanted.sha256}"
        raise InputError(what, "make the locks again")


class _Verified:
    """What the system knew of every file when its SHA-256 was last computed: for --fast, and only for it.

    Times of change and inodes can't be set, so a file that somebody swaps is hashed again; a list that somebody else
    could have written is no list.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / _STATE / "verified.json"
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if _is_ours(self._path) else {}
        except (OSError, ValueError, RecursionError):  # it only saves time: without it everything is hashed
            found = {}
        self._known: dict[str, list] = found if isinstance(found, dict) else {}

    def _facts(self, item: Wanted) -> list:
        status = item.path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, item.sha256]

    def trust(self, item: Wanted) -> bool:
        return self._known.get(str(item.path.relative_to(self._folder))) == self._facts(item)

    def remember(self, item: Wanted) -> None:
        self._known[str(item.path.relative_to(self._folder))] = self._facts(item)

    def save(self) -> None:
        write_atomically(self._path, json.dumps(self._known, sort_keys=True, indent=0).encode("utf-8"))
        self._path.chmod(0o600)


def _is_ours(path: Path) -> bool:
    """Tell whether only this user could have written the file: it and its folder are theirs alone, and no links."""
    found = (path.lstat(), path.parent.lstat())
    return all(
        s.st_uid == os.geteuid() and not stat.S_ISLNK(s.st_mode) and not s.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        for s in found
    )


def read_record(folder: Path) -> list[Part]:
    """Return the parts that a mirror holds; none for a folder that is no mirror. Raises InputError."""
    path = folder / RECORD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read: {error}", f"remove it and run {satenv('mirror')} again") from error
    try:
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}")
        return [part_from_json(name, part) for name, part in data["variants"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a mirror's record of schema {SCHEMA}; {type(error).__name__}: {error}",
            f"remove it and run {satenv('mirror')} again",
        ) from error


def _write_pages(folder: Path, parts: Sequence[Part]) -> None:
    """Write wheelhouse/index.html: what pip's --find-links reads over http."""
    pins = {pin.file_name: pin for part in parts for pin in part.pip}
    names = [name for name in sorted(pins) if (folder / WHEELHOUSE / name).is_file()]
    if names:
        links = [(f"{quote(name)}#sha256={pins[name].sha256}", name, {}) for name in names]
        write_atomically(folder / WHEELHOUSE / "index.html", simple_page(links))

"""Writes a bundle: each member's place is known beforehand, so all cores hash and write at once, in constant memory."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import io
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.bundle.container import MANIFEST, PIECE, Member, make_tail
from cogvideo_sat_env.bundle.front import first_bytes, with_main

_BLOCK, _RECORD = 512, 10240  # of tar
_SOURCE = Path(__file__).resolve().parents[1]
_RUNTIME = (
    "__init__.py", "base/__init__.py", "base/complete.py", "base/diskspace.py", "base/errors.py", "base/machine.py",
    "base/paths.py", "base/printable.py", "base/progress.py", "base/run.py", "base/scratch.py", "base/stdio.py",
    "base/timestamp.py", "bundle/__init__.py", "bundle/bundle_manifest.py", "bundle/container.py",
    "bundle/describe.py", "bundle/front.py", "bundle/start.py", "bundle/unpack_tool.py", "bundle/verify_bundle.py",
    "report/__init__.py", "report/signature.py",
)  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One member to be: a file, or bytes. `sha256` is what it has to be; None: whatever it is."""

    path: str
    source: Path | bytes
    sha256: str | None = None
    executable: bool = False

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


class _Volumes:
    """One range of bytes over one file or several, written at any place from any thread."""

    def __init__(self, paths: Sequence[Path], size: int, limit: int | None) -> None:
        self._limit = limit or 1 << 62
        self._files = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666) for path in paths]
        for descriptor in self._files:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # says to others that a process is at work on it
        self.sizes = [min(self._limit, size - number * self._limit) for number in range(len(paths))]

    def write(self, content: bytes | memoryview, offset: int) -> None:
        view = memoryview(content)
        while view:
            number, place = divmod(offset, self._limit)
            done = os.pwrite(self._files[number], view[: self._limit - place], place)
            view, offset = view[done:], offset + done

    def close(self) -> None:
        for descriptor in self._files:
            os.fsync(descriptor)
        self.abandon()

    def abandon(self) -> None:
        while self._files:
            os.close(self._files.pop())


def write_bundle(
    path: Path,
    items: Sequence[Item],
    facts: Mapping[str, Any],
    *,
    volume_size: int | None,
    base: tuple[str, str, frozenset[str]] | None,
    seen: Callable[[int], None],
) -> None:
    """Write the bundle at `path` (with `volume_size`: and its volumes beside it), whole or not at all.

    `facts` go into the manifest. `base` are name, id and the SHA-256s of the bundle that this one is a delta on.
    `seen` gets the bytes of each piece. Raises VerificationError when a file isn't what it has to be.
    """
    ordered = sorted(items, key=lambda item: item.path)
    members, headers, size = _layout(ordered, base)
    if volume_size is not None and volume_size < 1_000_000:
        raise InputError(f"--volume-size {volume_size}: expected at least 1 MB", "e.g. --volume-size 4G")
    count = max(1, -(-size // volume_size)) if volume_size else 0
    names = [f"{path.name}.v{number:02d}" for number in range(1, count + 1)]
    mark = secrets.token_hex(4)
    _remove_left(path)
    partials = [path.with_name(f".{name}.{mark}.partial") for name in names or [path.name]]
    volumes = None
    try:
        volumes = _Volumes(partials, size, volume_size)
        members = _write_members(ordered, members, volumes, seen)
        framing = hashlib.sha256()
        for offset, content in headers:
            framing.update(content)
            volumes.write(content, offset)
        listed = [{"name": n, "size": s} for n, s in zip(names, volumes.sizes, strict=False)] if names else []
        manifest = {
            **facts, "members": [vars(member) for member in members], "data_size": size,
            "framing_sha256": framing.hexdigest(), "volumes": listed,
            "base": {"name": base[0], "id": base[1]} if base else None,
        }  # fmt: skip
        tail = make_tail(with_main(_tail_members(manifest), make_tail))
        if names:
            volumes.close()
            front = path.with_name(f".{path.name}.{mark}.partial")
            partials.append(front)
            front.write_bytes(first_bytes() + tail)
        else:
            volumes.write(tail, size)
            volumes.close()
        for partial, name in zip(partials, [*names, path.name], strict=True):
            os.replace(partial, path.with_name(name))
    finally:
        if volumes:
            volumes.abandon()
        for partial in partials:
            partial.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove what killed runs have left of this bundle: files that no process has locked."""
    for left in path.parent.glob(f".{glob.escape(path.name)}*.partial"):
        with suppress(OSError), open(left, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _tail_members(manifest: Mapping[str, Any]) -> dict[str, bytes]:
    content = (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode("utf-8")
    code = {f"cogvideo_sat_env/{name}": (_SOURCE / name).read_bytes() for name in _RUNTIME}
    return {MANIFEST: content, **code}


def _layout(
    ordered: Sequence[Item], base: tuple[str, str, frozenset[str]] | None
) -> tuple[list[Member], list[tuple[int, bytes]], int]:
    """Return the members with their places, what lies between them (offset, bytes), and the size of it all."""
    first = first_bytes()
    members, between, offset = [], [(0, first)], len(first)
    padding = b""
    for item in ordered:
        sha256 = item.sha256 or ""
        if isinstance(item.source, bytes):
            sha256 = hashlib.sha256(item.source).hexdigest()
        elif base and not sha256:
            sha256 = sha256_file(item.source)
        if base and sha256 in base[2]:
            members.append(Member(item.path, item.size, sha256, None, item.executable))
            continue
        info = tarfile.TarInfo(item.path)
        info.size, info.mtime, info.mode = item.size, EPOCH, 0o755 if item.executable else 0o644
        header = info.tobuf(tarfile.GNU_FORMAT)
        between.append((offset, padding + header))
        offset += len(padding) + len(header)
        members.append(Member(item.path, info.size, sha256, offset, item.executable))
        offset += info.size
        padding = bytes(-info.size % _BLOCK)
    end = offset + len(padding) + 2 * _BLOCK
    end += -end % _RECORD
    between.append((offset, bytes(end - offset)))
    return members, between, end


def _write_members(
    ordered: Sequence[Item], members: Sequence[Member], volumes: _Volumes, seen: Callable[[int], None]
) -> list[Member]:
    def one(item: Item, member: Member) -> Member:
        if member.offset is None:
            return member
        found = _copy(item, member, volumes, seen)
        if member.sha256 not in ("", found):
            raise VerificationError(
                f"{item.source if isinstance(item.source, Path) else item.path}: expected SHA-256 {member.sha256}, "
                f"found {found}",
                f"the mirror is damaged: run {satenv('mirror')} again, which fetches what differs",
            )
        return replace(member, sha256=found)

    pairs = sorted(zip(ordered, members, strict=True), key=lambda pair: -pair[1].size)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        jobs = {member.path: pool.submit(one, item, member) for item, member in pairs}
        done, _ = wait(jobs.values(), return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)  # of what hasn't begun, after an error
    for job in done:
        job.result()
    return [jobs[member.path].result() for member in members]


def _copy(item: Item, member: Member, volumes: _Volumes, seen: Callable[[int], None]) -> str:
    digest, offset, left = hashlib.sha256(), member.offset, member.size
    view = memoryview(bytearray(PIECE))
    with io.BytesIO(item.source) if isinstance(item.source, bytes) else open(item.source, "rb", buffering=0) as stream:
        while read := stream.readinto(view):
            left -= read
            if left < 0:
                break
            digest.update(view[:read])
            volumes.write(view[:read], offset)
            offset += read
            seen(read)
    if left:
        raise VerificationError(f"{item.source}: its size changed while it was read", "run it again")
    return digest.hexdigest()

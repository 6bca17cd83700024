"""The bundle's container: where each member lies, in one file or in volumes, and over which base.

Runs from inside a bundle: Python's standard library only.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.bundle.bundle_manifest import parse
from cogvideo_sat_env.bundle.front import first_bytes

MANIFEST = "manifest.json"
PIECE = 1024 * 1024
_DATE = (2020, 1, 1, 0, 0, 0)
_BROKEN = "copy the bundle again and compare its size; what is in it can't be trusted"


@dataclass(frozen=True)
class Member:
    """One file of a bundle, as the manifest has it. `offset`: where it begins in the data; None: in the base."""

    path: str
    size: int
    sha256: str
    offset: int | None = None
    executable: bool = False


class Data:
    """The data of a bundle as one range of bytes, whatever files it is spread over. Safe for threads."""

    def __init__(self, segments: list[tuple[Path, int]]) -> None:
        self._segments, start = [], 0
        for path, size in segments:
            self._segments.append((start, start + size, path))
            start += size
        self.size = start

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """Yield `size` bytes from `offset`. Raises VerificationError when there are fewer."""
        for first, last, path in self._segments:
            begin, end = max(offset, first), min(offset + size, last)
            if begin >= end:
                continue
            try:
                stream = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
            except OSError as error:
                raise VerificationError(f"{path}: {error.strerror}; the bundle needs it", _BROKEN) from error
            with stream:
                stream.seek(begin - first)
                left = end - begin
                while left:
                    piece = stream.read(min(PIECE, left))
                    if not piece:
                        raise VerificationError(f"{path}: truncated: {left:,} bytes are missing", _BROKEN)
                    left -= len(piece)
                    yield piece


class Bundle:
    """An opened bundle. `base` is the bundle that a delta needs; `id` the SHA-256 of its manifest."""

    def __init__(self, path: Path, manifest: dict[str, Any], content: bytes, data: Data, tail: bytes) -> None:
        self.path, self.manifest, self.data, self.tail = path, manifest, data, tail
        self.id = hashlib.sha256(content).hexdigest()
        self.members = {m["path"]: Member(**m) for m in manifest["members"]}
        self.base: Bundle | None = None
        self._in_base: dict[str, Member] = {}

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def attach(self, base: Bundle) -> None:
        """Take missing members from `base`. Raises InputError when it isn't the bundle that this one names."""
        wanted = self.manifest["base"]
        if wanted is None:
            raise InputError(f"{self.path}: is complete; it needs no base", "leave --base out")
        if base.id != wanted["id"]:
            raise InputError(
                f"{base.path}: its manifest has SHA-256 {base.id}; {self.name} applies only on top of {wanted['name']} "
                f"with {wanted['id']}",
                "name that bundle with --base",
            )
        self.base = base
        self._in_base = {m.sha256: m for m in base.members.values() if m.offset is not None}
        gone = [m.path for m in self.members.values() if m.offset is None and m.sha256 not in self._in_base]
        if gone:
            raise VerificationError(f"{base.path}: lacks {gone[0]}, which {self.name} takes from it", _BROKEN)

    def require_base(self) -> None:
        """Raise InputError for a delta whose base wasn't named."""
        wanted = self.manifest["base"]
        if wanted is not None and self.base is None:
            raise InputError(
                f"{self.path}: is a delta on top of {wanted['name']} (manifest SHA-256 {wanted['id']})",
                f"name that bundle: --base WHERE/{wanted['name']}",
            )

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of a member, from the base where it lies there."""
        if member.offset is not None:
            yield from self.data.pieces(member.offset, member.size)
        else:
            self.require_base()
            there = self._in_base[member.sha256]
            yield from self.base.data.pieces(there.offset, there.size)

    def copy(self, member: Member, write: Callable[[bytes], object]) -> None:
        """Hand the bytes of a member to `write`. Raises VerificationError when they aren't the manifest's."""
        digest = hashlib.sha256()
        for piece in self.pieces(member):
            digest.update(piece)
            write(piece)
        if digest.hexdigest() != member.sha256:
            raise VerificationError(
                f"{self.name}: {member.path}: expected SHA-256 {member.sha256}, found {digest.hexdigest()}", _BROKEN
            )

    def read(self, path: str) -> bytes:
        """Return a small member, proven. Raises InputError when there is none of that name."""
        if path not in self.members:
            raise InputError(f"{self.path}: has no {path}", "make the bundle again with this version of satenv")
        buffer = io.BytesIO()
        self.copy(self.members[path], buffer.write)
        return buffer.getvalue()


def open_bundle(path: Path, base: Path | None = None) -> Bundle:
    """Open a bundle and check that its manifest, its tail and its files' sizes agree; members are not read.

    Raises InputError (no bundle, volume missing, wrong base), VerificationError (truncated, damaged).
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file; expected a bundle", "name the .pyz file")
    try:
        content, members, zip_size = _read_tail(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a bundle", "name the .pyz file") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, KeyError, ValueError) as error:
        raise VerificationError(
            f"{path}: is no whole bundle: its end is damaged or missing ({error})", _BROKEN
        ) from error
    try:
        manifest = parse(content, str(path))
    except ValueError as error:
        raise VerificationError(f"{path}: its manifest can't be read: {error}", _BROKEN) from error
    with open(path, "rb") as stream:
        stream.seek(-zip_size, os.SEEK_END)
        tail = stream.read()
    if tail != make_tail(members):
        raise VerificationError(f"{path}: the last {zip_size:,} bytes are damaged", _BROKEN)
    bundle = Bundle(path, manifest, content, _data(path, manifest, path.stat().st_size - zip_size), tail)
    if base is not None:
        bundle.attach(open_bundle(base))
    return bundle


def _read_tail(path: Path) -> tuple[bytes, dict[str, bytes], int]:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        size = path.stat().st_size
        # ours are stored as they are: anything else could unpack to more than there is memory
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(i.file_size for i in infos) > size:
            raise ValueError("it isn't one that satenv has written")
        members = {info.filename: archive.read(info) for info in infos}
        start = min(info.header_offset for info in infos)
        return members[MANIFEST], members, size - start


def make_tail(members: dict[str, bytes]) -> bytes:
    """Return the zip archive of these members; the same members give the same bytes with every Python."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def _data(path: Path, manifest: dict[str, Any], front: int) -> Data:
    volumes = manifest["volumes"]
    if not volumes:
        if front != manifest["data_size"]:
            raise VerificationError(
                f"{path}: expected {manifest['data_size']:,} bytes before the manifest, found {front:,}", _BROKEN
            )
        return Data([(path, front)])
    segments = []
    for number, volume in enumerate(volumes, 1):
        place = path.with_name(volume["name"])
        if not place.is_file():
            raise InputError(
                f"{place}: volume {number} of {len(volumes)} is missing", "put all volumes beside the .pyz file"
            )
        size = place.stat().st_size
        if size != volume["size"]:
            raise VerificationError(f"{place}: expected {volume['size']:,} bytes, found {size:,}", _BROKEN)
        segments.append((place, size))
    with open(path, "rb") as stream:
        if stream.read(front) not in (first_bytes(), b""):
            raise VerificationError(f"{path}: its first {front:,} bytes are damaged", _BROKEN)
    return Data(segments)

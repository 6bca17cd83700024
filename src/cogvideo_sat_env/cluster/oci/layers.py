"""Layers: tar archives, hashed before and after their compression while they are written; the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.timestamp import EPOCH

TYPE = "application/vnd.oci.image.layer.v1.tar"
KINDS = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}
_PIECE = 1 << 20  # bytes that are read, hashed and compressed at once
_GZIP_LEVEL, _ZSTD_LEVEL = 3, 6  # gzip's 6 takes twice as long, and saves 8 percent


@dataclass(frozen=True)
class Layer:
    """One layer as it lies in blobs/sha256: what it is, its digest and size, and the digest of its tar archive."""

    name: str
    media_type: str
    digest: str
    size: int
    diff_id: str


class _Out:
    """What a tar archive is written to: hashes it, compresses it, hashes that, too."""

    def __init__(self, stream: IO[bytes], kind: str) -> None:
        self._stream = stream
        self._plain = self._packed = hashlib.sha256()
        self.size = 0
        self._packer: Any = None
        if kind == "gzip":
            self._packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)  # 31: with gzip's header, without a time
        elif kind == "zstd":
            self._packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
        if self._packer:
            self._plain = hashlib.sha256()

    def tell(self) -> int:
        """Return 0: tarfile asks once, before it writes."""
        return 0

    def write(self, content: bytes) -> int:
        if self._packer:
            self._plain.update(content)
        self._put(self._packer.compress(content) if self._packer else content)
        return len(content)

    def _put(self, content: bytes) -> None:
        if content:
            self._packed.update(content)
            self._stream.write(content)
            self.size += len(content)

    def finish(self) -> tuple[str, str]:
        """Write what is left; return the SHA-256 of the archive and of the file."""
        if self._packer:
            self._put(self._packer.flush())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._plain.hexdigest(), self._packed.hexdigest()


def write_layer(blobs: Path, name: str, kind: str, add: Callable[[tarfile.TarFile], None]) -> Layer:
    """Write the layer `name`, whose members `add` adds, into `blobs`. Raises OSError, and what `add` raises."""
    partial = blobs / f".{name.replace('/', '-').replace(' ', '-')}.partial"
    try:
        with open(partial, "wb") as stream:
            out = _Out(stream, kind)
            # not "w|", whose buffer is copied for each piece that comes into it
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_PIECE) as archive:  # type: ignore[call-overload]
                add(archive)
            plain, packed = out.finish()
        os.replace(partial, blobs / packed)
    finally:
        partial.unlink(missing_ok=True)
    return Layer(name, TYPE + KINDS[kind], f"sha256:{packed}", out.size, f"sha256:{plain}")


def add_files(archive: tarfile.TarFile, prefix: Path, at: str, names: Sequence[str], skip: frozenset[str]) -> None:
    """Add the files `names` of `prefix` as they are seen at the absolute path `at`, with the folders that they are in.

    Folders named in `skip` are the base's and stay as they are.
    """
    made: set[str] = set(skip)
    for name in names:
        inside = f"{at.lstrip('/')}/{name}"
        parts = inside.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folder not in made:
                made.add(folder)
                archive.addfile(_info(folder, tarfile.DIRTYPE, 0o755))
        path = prefix / name
        if parts[-1].startswith(".wh."):
            raise InputError(
                f"{path}: a name that begins with .wh. means a deletion in a layer", "leave the package out"
            )
        if path.is_symlink():
            info = _info(inside, tarfile.SYMTYPE, 0o777)
            info.linkname = os.readlink(path)
            archive.addfile(info)
        elif path.is_dir():
            archive.addfile(_info(inside, tarfile.DIRTYPE, 0o755))
            made.add(inside)
        else:
            with open(path, "rb") as stream:
                found = os.fstat(stream.fileno())
                info = _info(inside, tarfile.REGTYPE, 0o755 if found.st_mode & 0o100 else 0o644)
                info.size, info.mtime = found.st_size, int(found.st_mtime)
                archive.addfile(info, stream)


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, EPOCH
    return info

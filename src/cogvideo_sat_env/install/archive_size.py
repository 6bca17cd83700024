"""How much an archive can unpack to, known before a byte of it is: against archives that fill the disk."""

from __future__ import annotations

import asyncio
import bz2
import json
import os
import struct
import zipfile
from pathlib import Path

import zstandard

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.progress import human_bytes

HARMLESS = 64 * 1024 * 1024  # bytes that any package may unpack to
RATIO = 20  # packages of programs and data unpack to 2 to 10 times their size
SLACK = 16 * 1024 * 1024  # for what tar adds, and for info/
_BLOCK = 128 * 1024  # RFC 8878: no block of a zstd frame unpacks to more
_PIECE = 1024 * 1024


def require_bounded(archive: Path) -> None:
    """Raise VerificationError when `archive` would unpack to much more than its own list of files says."""
    packed = archive.stat().st_size
    allowed = max(HARMLESS, RATIO * packed)
    found = _unpacked(archive, allowed)
    if found <= allowed:
        return
    declared = asyncio.run(_declared(archive))
    allowed = max(allowed, declared + SLACK)
    if found > allowed and _unpacked(archive, allowed) > allowed:
        raise VerificationError(
            f"{archive.name}: {human_bytes(packed)} that unpack to {human_bytes(found)} or more, but its own list says "
            f"{human_bytes(declared)}: it would fill the disk",
            "don't use this package; tell its channel",
        )


def _unpacked(archive: Path, limit: int) -> int:
    """Return how many bytes the archive can unpack to at most; for tar.bz2, counted up to a little over `limit`."""
    if archive.name.endswith(".tar.bz2"):
        with bz2.open(archive) as stream:
            total = 0
            while total <= limit and (piece := stream.read(_PIECE)):
                total += len(piece)
            return total
    total = 0
    with zipfile.ZipFile(archive) as container, open(archive, "rb") as stream:
        file = stream.fileno()
        for member in container.infolist():
            if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".zst"):
                total += member.file_size
                continue
            # the local header's own lengths: they may differ from the central directory's
            name, extra = struct.unpack("<HH", os.pread(file, 4, member.header_offset + 26))
            start = member.header_offset + 30 + name + extra
            total += _frames(file, start, start + member.compress_size)
    return total


def _frames(file: int, position: int, end: int) -> int:
    """Return the bytes that the zstd frames of a file can unpack to at most: only their headers are read."""
    total = 0
    while position < end:
        head = os.pread(file, min(18, end - position), position)
        magic = int.from_bytes(head[:4], "little")
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to be skipped
            position += 8 + int.from_bytes(head[4:8], "little")
            continue
        frame = zstandard.get_frame_parameters(head)
        position += zstandard.frame_header_size(head)
        blocks, last = 0, 0
        while not last:
            if position + 3 > end:
                raise zstandard.ZstdError("a frame ends early")
            block = int.from_bytes(os.pread(file, 3, position), "little")
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            blocks += _BLOCK if kind == 2 else size
            position += 3 + (1 if kind == 1 else size)
        position += 4 * frame.has_checksum
        known = frame.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)
        total += min(blocks, frame.content_size) if known else blocks  # a decoder refuses a frame that has more
    return total


async def _declared(archive: Path) -> int:
    from rattler.package_streaming import PackageArchive

    try:
        opened = await PackageArchive.from_path(archive)
        paths = json.loads((await opened.read_file("info/paths.json")) or b'{"paths": []}')["paths"]
        return sum(int(entry.get("size_in_bytes") or 0) for entry in paths)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        why = f"{archive.name}: its list of files can't be read: {error}"
        raise VerificationError(why, "tell its channel") from error

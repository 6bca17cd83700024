"""The bytes of an image on a node: compared with their SHA-256 while they are read, mounted or unpacked after it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import BinaryIO

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.cluster.image_facts import ImageFacts
from cogvideo_sat_env.cluster.stage.place import Place, remove

_PIECE = 4 * 1024 * 1024
_LIMIT = 1800.0  # seconds for unpacking


class NoRoom(Exception):
    """The node's disk is too small."""


def room(place: Place, needed: int, what: str) -> None:
    """Raise NoRoom unless the node's folder has `needed` bytes free for `what`."""
    free = shutil.disk_usage(place.at).free
    if free < needed:
        raise NoRoom(f"{place.at}: {human_bytes(needed)} needed for {what}, {human_bytes(free)} free")


def copy(image: Path, place: Place) -> None:
    """Copy `image` to the node, compared on the way; nothing is left after NoRoom, VerificationError, OSError."""
    room(place, place.facts.size, "a copy of the image")
    try:
        with open(place.partial, "xb", buffering=0) as out:
            os.chmod(place.partial, 0o644)
            verify(image, place.facts, out)
        os.replace(place.partial, place.copy)
    finally:
        place.partial.unlink(missing_ok=True)


def take(copied: Path, place: Place) -> None:
    """Take the file `copied`, which sbcast brought, as the node's copy. Raises VerificationError, OSError."""
    try:
        if os.lstat(copied).st_uid not in (0, os.geteuid()):
            raise VerificationError(f"{copied}: belongs to another user")
        os.replace(copied, place.partial)
        os.chmod(place.partial, 0o644)
        verify(place.partial, place.facts)
        os.replace(place.partial, place.copy)
    finally:
        place.partial.unlink(missing_ok=True)


def verify(image: Path, facts: ImageFacts, out: BinaryIO | None = None) -> None:
    """Read `image` and compare it, writing it to `out`. Raises VerificationError, OSError."""
    digest, size = hashlib.sha256(), 0
    with open(image, "rb", buffering=0) as stream:
        found = os.fstat(stream.fileno()).st_size
        if found == facts.size:
            while True:
                piece = stream.read(_PIECE)
                if not piece:
                    break
                digest.update(piece)
                size += len(piece)
                view = memoryview(piece)
                while out and view:
                    view = view[out.write(view) :]
            found = size
    if found != facts.size:
        raise VerificationError(f"{image}: expected {facts.size:,} bytes, found {found:,}: it is cut or another one")
    if digest.hexdigest() != facts.sha256:
        raise VerificationError(f"{image}: expected SHA-256 {facts.sha256}, found {digest.hexdigest()}: it is damaged")


def unpack(image: Path, place: Place) -> None:
    """Unpack `image`, which is proven, at its place on the node; whole or not at all. Raises NoRoom, OSError."""
    program = shutil.which("unsquashfs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise OSError("no unsquashfs on PATH (squashfs-tools)")
    if os.statvfs(place.at).f_flag & os.ST_NOEXEC:
        raise OSError(f"{place.at}: is mounted noexec; nothing unpacked there could be started")
    room(place, place.facts.unpacked, "an unpacked copy")
    try:
        try:
            done = subprocess.run(
                [program, "-no-progress", "-quiet", "-no-xattrs", "-dest", str(place.partial), str(image)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
                timeout=_LIMIT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise OSError(f"unsquashfs: no end in {_LIMIT:.0f} s") from None
        words = " ".join(done.stderr.decode(errors="replace").split())[-200:]
        if done.returncode:
            raise OSError(f"unsquashfs ended with {done.returncode}: {words}")
        if not place.holds(place.partial):
            raise OSError(f"unsquashfs: the environment isn't in what it made {words}")
        remove(place.prefix)
        os.rename(place.partial, place.prefix)
    finally:
        remove(place.partial)

"""SHA-256 of files, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

CHUNK = 1024 * 1024


def sha256_file(path: Path, seen: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of the file at `path` in hex; `seen` gets the bytes of each piece."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
            if seen:
                seen(len(piece))
    return digest.hexdigest()


def describe(path: Path) -> dict[str, object]:
    """Return size in bytes and SHA-256 of the file at `path`, as the receipt keeps them."""
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}

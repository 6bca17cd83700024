"""Indexes a channel folder, in a process of its own; the request is on standard input (see child.py)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cogvideo_sat_env.base.child import answer


def index(request: dict) -> dict:
    """Write the index files of `channel`, each by one rename; packages that it knows already aren't read again."""
    from rattler.index import index_fs

    asyncio.run(
        index_fs(Path(request["channel"]), write_zst=True, write_shards=request["shards"], force=request["force"])
    )
    return {}


if __name__ == "__main__":
    answer(index)

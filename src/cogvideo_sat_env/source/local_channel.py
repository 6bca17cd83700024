"""A channel in a folder: its index, and the packages in it as links to where they are kept."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from cogvideo_sat_env.base.child import answer, ask
from cogvideo_sat_env.base.errors import SatenvError, VerificationError


def index_channel(channel: Path, remedy: str) -> None:
    """Write the repodata.json of every subdir of `channel`, the same bytes for the same packages.

    Raises VerificationError, with `remedy`, when a package can't be read.
    """
    run_indexer(channel, VerificationError, remedy)
    for path in channel.glob("*/repodata.json"):  # the indexer's order changes, and it notes the time
        repodata = json.loads(path.read_text(encoding="utf-8"))
        for record in (*repodata["packages"].values(), *repodata["packages.conda"].values()):
            record.pop("indexed_timestamp", None)
        path.write_text(json.dumps(repodata, sort_keys=True, separators=(",", ":")), encoding="utf-8")


def run_indexer(channel: Path, kind: type[SatenvError], remedy: str | None, **options: bool) -> None:
    """Have rattler index `channel`, in a process of its own; `options` are those of its index_fs.

    Packages that an index knows aren't read again. Raises `kind`, with `remedy`.
    """
    found = ask("source.local_channel", {"channel": str(channel), **options}, "the indexer")
    if "error" in found:
        raise kind(f"{channel}: can't be indexed: {found['error']}", remedy)
    shutil.rmtree(channel / ".tmp", ignore_errors=True)  # left by the indexer


def _index(request: dict) -> dict:
    from rattler.index import index_fs

    asyncio.run(index_fs(Path(request.pop("channel")), **{"write_zst": False, "write_shards": False, **request}))
    return {}


if __name__ == "__main__":
    answer(_index)

"""Indexing a local channel, in a process of its own: py-rattler's threads can abort an interpreter that is ending."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.lock.solve import child_environment


def index_channel(channel: Path) -> None:
    """Write the repodata.json of every subdir of `channel`. Raises VerificationError when a package can't be read."""
    child = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env.source.wheels.index", str(channel)],
        capture_output=True, text=True, check=False, env=child_environment(),
    )  # fmt: skip
    if child.returncode != 0:
        raise VerificationError(
            f"{channel}: can't be indexed: {child.stderr.strip()[-500:]}",
            "the cache of converted wheels may be damaged: delete it and run again",
        )


def main() -> None:
    """Index the channel that the first argument names."""
    from rattler.index import index_fs

    asyncio.run(index_fs(Path(sys.argv[1]), write_zst=False, write_shards=False))
    sys.stdout.flush()
    os._exit(0)  # past the engine's threads, which may still be ending


if __name__ == "__main__":
    main()

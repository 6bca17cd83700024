"""Every conda package into the cache, with its size and SHA-256 proven: from a channel, a mirror, or a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.fetch.wanted import Policy, Wanted

JOBS = 16  # small packages come as fast as a server answers: more at once hide its latency
ATTEMPTS = Policy.attempts
STALLED = Policy.stall


def artefact_path(cache: Path, sha256: str, file_name: str) -> Path:
    """Return where the cache keeps the file with this SHA-256.

    Raises InputError for a name that is no plain file name (a lock may have been edited by hand).
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not re.fullmatch(r"[^/\\\0.][^/\\\0]*", file_name):
        raise InputError(
            f"{file_name!r} with SHA-256 {sha256!r} can't be a file of a lock",
            "make the lock again",
        )
    return cache / "artefacts" / sha256[:2] / sha256 / file_name


def fetch(
    artefacts: Sequence[CondaArtefact],
    *,
    locate: Callable[[CondaArtefact], str | Sequence[str]],
    cache: Path,
    progress: Progress,
    jobs: int = JOBS,
    attempts: int = ATTEMPTS,
    ready: Callable[[CondaArtefact, Path], None] | None = None,
) -> dict[str, Path]:
    """Bring every artefact into `cache` and return its path by SHA-256; all are proven when this returns.

    What the cache already has is hashed again. `locate` gives the URL (http, https or file) of an artefact, or several
    in the order to try them. `ready` is called from any thread, once for each artefact as soon as it is proven.
    Raises VerificationError (bytes differ from the lock), SourceError (not to be had), PrefixError (no space).
    """
    from cogvideo_sat_env.fetch.pool import fetch_files  # the HTTP client loads slowly; not every caller fetches

    wanted = []
    unique = {a.sha256: a for a in artefacts}
    for artefact in unique.values():
        located = locate(artefact)
        urls = tuple(map(Address, (located,) if isinstance(located, str) else located))
        path = artefact_path(cache, artefact.sha256, artefact.file_name)
        wanted.append(Wanted(artefact.file_name, path, artefact.sha256, urls, artefact.size, artefact.relock))
    fetch_files(
        wanted,
        title=f"Fetching and verifying {len(wanted)} packages",
        what="the download of the packages",
        progress=progress,
        policy=Policy(jobs=jobs, attempts=attempts, stall=STALLED),
        ready=lambda item: ready(unique[item.sha256], item.path) if ready else None,
    )
    return {w.sha256: w.path for w in wanted}

"""What is wanted, where the cache keeps it, and how patiently it is asked for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import RELOCK
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.fetch.limit import parse_bytes

MAX_FILE_SIZE = "SATENV_MAX_FILE_SIZE"  # what --max-file-size sets, for child processes, too
INDEX = "index"  # among the places of pip files: the package index that pip is configured with


@dataclass(frozen=True)
class Wanted:
    """One file: exactly these bytes. `urls` (http, https or file) are tried in order; `size` is in bytes."""

    name: str
    path: Path
    sha256: str
    urls: tuple[Address, ...]
    size: int | None = None
    relock: str = RELOCK

    def __post_init__(self) -> None:
        """Take addresses that are given as text."""
        object.__setattr__(self, "urls", tuple(map(Address, self.urls)))


def artefact_path(cache: Path, sha256: str, file_name: str) -> Path:
    """Return where the cache keeps the file with this SHA-256.

    Raises InputError for a name that is no plain file name (a lock may have been edited by hand).
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not re.fullmatch(r"[^/\\\0.][^/\\\0]*", file_name):
        raise InputError(f"{file_name!r} with SHA-256 {sha256!r} can't be a file of a lock", "make the lock again")
    return cache / "artefacts" / sha256[:2] / sha256 / file_name


def max_file_size() -> int:
    """Return the ceiling for a file whose size the lock doesn't say, in bytes. Raises InputError."""
    named = os.environ.get(MAX_FILE_SIZE)
    return parse_bytes(named, MAX_FILE_SIZE) if named else 4 * 10**9


@dataclass(frozen=True)
class Policy:
    """How patient a fetch is.

    jobs        transfers at once
    attempts    tries in a row that bring nothing new, per address
    backoff     seconds before the second try; doubled each time, with jitter
    longest     seconds that a server's Retry-After may ask for at most
    stall       seconds without a byte after which a transfer is given up
    min_speed   bytes per second below which, over `window` seconds, it is given up as well
    limit_rate  bytes per second for all transfers together; None: as fast as it goes
    max_size    bytes of a file whose size the lock doesn't say, at most
    """

    jobs: int = 8
    attempts: int = 4
    backoff: float = 0.25
    longest: float = 120.0
    stall: float = 60.0
    min_speed: float = 1000.0
    window: float = 30.0
    limit_rate: float | None = None
    max_size: int = field(default_factory=max_file_size)

    @property
    def slowest(self) -> float:
        """The speed that counts as too slow; our own limit must never look like a slow server."""
        return self.min_speed if self.limit_rate is None else min(self.min_speed, self.limit_rate / self.jobs / 4)

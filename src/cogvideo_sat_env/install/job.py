"""What an install is about: what is to be in the prefix (Plan), how (Options), where (Job); its stages (Clock)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install import activation

SCHEMA = 1  # of receipts, and of what a fingerprint is made over


class Locator(Protocol):
    """Where the bytes of a plan are; its text is shown and recorded."""

    def locate(self, artefact: CondaArtefact) -> Sequence[str]:
        """Return the URLs (http, https, file) of an artefact in the order to try them."""

    def find_links(self) -> Sequence[str]:
        """Return places of pip files, in order; none: the package index is asked."""


@dataclass(frozen=True)
class Plan:
    """What is to be in the prefix, and where its bytes are.

    `requested` are the user's match specs, `variables` those that activation sets, `facts` what the receipt tells
    besides (variant, lock, lock_sha256, inputs, data_only, not_provided, …), `patches` what changes pip packages before
    they are laid out, by their names in the lock.
    """

    source: Locator
    platform: str
    artefacts: Sequence[CondaArtefact]
    pip_pins: Sequence[PipPin] = ()
    requested: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    patches: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    @property
    def packages(self) -> int:
        """How many packages it has."""
        return len(self.artefacts) + len(self.pip_pins)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over everything that decides what the prefix will hold; order doesn't matter.

        Of the source the kind counts, not the address: the bytes are the same wherever they lie.
        """
        facts = {
            "schema": SCHEMA,
            "platform": self.platform,
            "conda": sorted((a.sha256, a.url) for a in self.artefacts),
            "pip": sorted((p.name, p.version, p.sha256) for p in self.pip_pins),
            "variables": dict(self.variables),
            "activation": activation.load().version,
            "source": source_kind(str(self.source)),
        }
        if self.patches:
            facts["patches"] = {name: [sha256_file(path) for path in files] for name, files in self.patches.items()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()


def source_kind(source: str) -> str:
    """Return the kind of a source as a receipt tells it: of the first, where several were tried one after the other."""
    return source.partition(" ")[0].partition("=")[0]


@dataclass(frozen=True)
class Options:
    """How to install.

    replace             an older environment of ours may be replaced
    repair              a prefix of ours is compared with what it should be, and what differs is put right
    keep                the prefix that is replaced is kept for `undo`
    full                every byte of what the cache already has is hashed again
    break_lock          the lock of another host that gave no sign of life for long is taken
    allow_link_scripts  names of packages whose post-link scripts may run, or "all"
    wait                for another run on the same prefix, in seconds; None: as long as it lives
    seen_at             the path at which the environment will be seen: an image's mount point, a container's folder;
                        all that embeds a path says that one. None: the prefix itself
    """

    replace: bool = False
    repair: bool = False
    keep: bool = False
    full: bool = False
    break_lock: bool = False
    allow_link_scripts: Sequence[str] = ()
    wait: float | None = None
    seen_at: Path | None = None

    def may_run(self, package: str) -> bool:
        """Tell whether the link scripts of `package` may be run."""
        allowed = package in self.allow_link_scripts or "all" in self.allow_link_scripts
        return allowed and self.seen_at is None  # they need the environment at the path that they write


@dataclass(frozen=True)
class Job:
    """The plan for one prefix; `cache` and its read-only `layers` hold the packages."""

    prefix: Path
    plan: Plan
    cache: Path
    progress: Progress
    options: Options = field(default_factory=Options)
    layers: Sequence[Path] = ()

    @property
    def embedded(self) -> Path:
        """The path that files of the environment say it is at."""
        return self.options.seen_at or self.prefix


class Clock:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start

"""What an install is about, as one value, and how long its stages take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.activation import Activation


@dataclass(frozen=True)
class Job:
    """The arguments of `install_prefix`, which describes them; `wanted` is the fingerprint of the result."""

    prefix: Path
    wanted: str
    platform: str
    artefacts: Sequence[CondaArtefact]
    pip_pins: Sequence[PipPin]
    locate: Callable[[CondaArtefact], str | Sequence[str]]
    source: str
    facts: Mapping[str, Any]
    activation: Activation
    variables: Mapping[str, str]
    cache: Path
    progress: Progress
    requested: Sequence[str]
    find_links: Sequence[str]
    layers: Sequence[Path]
    full: bool
    allow_link_scripts: frozenset[str]

    def may_run(self, package: str) -> bool:
        """Tell whether the link scripts of `package` may be run."""
        return bool(self.allow_link_scripts & {package, "all"})


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

"""What was done to a prefix, for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cogvideo_sat_env.install import activation
from cogvideo_sat_env.install.job import Clock, Job


class DoctorVerdict(Protocol):
    """The doctor's report, as far as it is passed on."""

    @property
    def exit_code(self) -> int:
        """0 when every check passed."""

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""


@dataclass(frozen=True)
class InstallOutcome:
    """What was done.

    status        "created", "replaced", "updated", "repaired" or "up-to-date"
    seconds       by stage, in order
    bytes         of the artefacts that were proven (compressed)
    files         linked, laid out and generated, without bytecode
    not_provided  specs that the source has nothing for, and why
    link_scripts  those that were not run; link_scripts_run those that were
    collisions    paths that two packages ship with other content
    repaired      what a repair put right, and why
    added         packages that a repair found beside the lock's; pip's (marked so) were moved aside, conda's kept
    aside         files that it moved into `aside_folder`; unowned: files of no package that it left where they are
    kept          where the replaced prefix is kept for `undo`, if it is
    """

    prefix: Path
    status: str
    source: str
    variant: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0
    packages: int = 0
    files: int = 0
    not_provided: Sequence[Mapping[str, str]] = ()
    link_scripts: Sequence[str] = ()
    link_scripts_run: Sequence[str] = ()
    collisions: Sequence[str] = ()
    repaired: Sequence[str] = ()
    added: Sequence[str] = ()
    aside: Sequence[str] = ()
    aside_folder: str = ""
    unowned: Sequence[str] = ()
    kept: str = ""
    report: DoctorVerdict | None = None

    @property
    def exit_code(self) -> int:
        """0, or the doctor's code."""
        return self.report.exit_code if self.report else 0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as documented; the keys are stable."""
        return {
            "prefix": str(self.prefix),
            "status": self.status,
            "source": self.source,
            "variant": self.variant,
            "packages": self.packages,
            "bytes": self.bytes,
            "files": self.files,
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "not_provided": list(self.not_provided),
            "link_scripts_not_run": list(self.link_scripts),
            "link_scripts_run": list(self.link_scripts_run),
            "repaired": list(self.repaired),
            "added": list(self.added),
            "aside": list(self.aside),
            "aside_folder": self.aside_folder or None,
            "unowned": list(self.unowned),
            "kept": self.kept or None,
            "collisions": list(self.collisions),
            "doctor": self.report.to_json() if self.report else None,
            "activate": activation.activation_command(self.prefix),
            "exit_code": self.exit_code,
        }


def of(job: Job, status: str, clock: Clock) -> InstallOutcome:
    """Return the outcome of `job`, which `clock` goes on measuring, as far as the plan tells it."""
    facts = job.plan.facts
    return InstallOutcome(
        job.prefix, status, str(job.plan.source), str(facts.get("variant", "")), clock.stages,
        packages=job.plan.packages, not_provided=facts.get("not_provided", ()),
    )  # fmt: skip

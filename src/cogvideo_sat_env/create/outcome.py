"""What `satenv create` and `satenv update` did, for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.install import activation

if TYPE_CHECKING:
    from cogvideo_sat_env.doctor import Report


@dataclass(frozen=True)
class Outcome:
    """What `create` did, for people and for scripts. `seconds` by stage; `bytes` of the archives."""

    prefix: Path
    status: str
    source: str
    variant: str
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    packages: int = 0
    files: int = 0
    not_provided: Sequence[dict[str, str]] = ()
    link_scripts: Sequence[str] = ()
    collisions: Sequence[str] = ()
    report: Report | None = None
    link_scripts_run: Sequence[str] = ()
    mended: Sequence[str] = ()
    kept: str = ""

    @property
    def exit_code(self) -> int:
        """0, or the doctor's code."""
        return self.report.exit_code if self.report else 0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as documented in the README; the keys are stable."""
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
            "mended": list(self.mended),
            "kept": self.kept or None,
            "collisions": list(self.collisions),
            "doctor": self.report.to_json() if self.report else None,
            "activate": activation.activation_command(self.prefix),
            "exit_code": self.exit_code,
        }

    def to_text(self) -> str:
        """Return the outcome for people."""
        from cogvideo_sat_env.doctor.command import report_text

        if self.status == "up-to-date":
            if self.seconds:  # every byte was compared
                return f"{self.prefix} is as it should be ({self.packages} packages, {self.files:,} files)\n"
            return f"{self.prefix} is up to date ({self.packages} packages, from {self.source}); nothing to do\n"
        lines = []
        if self.report:
            lines += [report_text(self.report).rstrip(), ""]
        for item in self.not_provided:
            lines.append(f"not provided by wheels: {item['spec']} ({item['reason']})")
        if self.link_scripts:
            lines.append(f"link scripts were not run: {', '.join(self.link_scripts)}")
        if self.link_scripts_run:
            lines.append(f"link scripts were run, as allowed: {', '.join(self.link_scripts_run)}")
        lines += [f"two packages ship the same file: {collision}" for collision in self.collisions]
        lines.append(
            f"{self.prefix}: {self.status} from {self.source}, {self.packages} packages, {human_bytes(self.bytes)}, "
            f"{self.files:,} files, {sum(self.seconds.values()):.0f} s"
        )
        if self.mended:
            lines += [f"put right: {entry}" for entry in self.mended]
            return "\n".join(lines) + "\n"
        if self.kept:
            lines.append(
                f"What was there before is kept: {satenv('undo -p', self.prefix)} (or --forget to free its space)"
            )
        lines += ["", "Activate it with:", activation.activation_command(self.prefix)]
        return "\n".join(lines) + "\n"

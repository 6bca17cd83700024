"""What `sat check` and `sat fix` say: for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.sat import code, configs, rules
from cogvideo_sat_env.doctor.sat.checkout import Checkout
from cogvideo_sat_env.doctor.sat.examine import SatOptions, open_run, static_findings
from cogvideo_sat_env.doctor.sat.finding import FAILED, Finding
from cogvideo_sat_env.doctor.sat.fix import write_corrected
from cogvideo_sat_env.doctor.sat.patches import APPLIED, THERE, UNFIT, PatchResult, apply, read_patches
from cogvideo_sat_env.doctor.sat.rules import Run


@dataclass(frozen=True)
class CheckReport:
    """What reading a checkout found."""

    checkout: Checkout
    state: str
    findings: tuple[Finding, ...]
    run: bool

    @property
    def exit_code(self) -> int:
        """1 when something will fail, else 0."""
        return int(any(item.status == FAILED for item in self.findings))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "folder": str(self.checkout.folder), "commit": self.checkout.commit, "state": self.state,
            "findings": [item.to_json() for item in self.findings], "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        lines = [f"{self.checkout.folder}: {self.state}", ""]
        for item in self.findings:
            mark = "FAILS " if item.status == FAILED else "warning"
            lines.append(f"{mark}  {item.where}: {item.finding}")
            lines.append(f"         {item.remedy}" + (f"   (upstream says: {item.error})" if item.error else ""))
        bad = sum(item.status == FAILED for item in self.findings)
        lines += ["", f"{bad} will fail, {len(self.findings) - bad} may" if self.findings else "Nothing to correct."]
        if not self.run:
            lines.append("No YAMLs were named: --base CONFIG --base CONFIG looks at a run, too.")
        elif any(item.edit for item in self.findings):
            lines.append(
                f"Corrected copies of the YAMLs: {satenv('sat fix', self.checkout.folder)} with the same --base"
            )
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class FixReport:
    """What was written: corrected copies by their source, patches by what became of them."""

    written: dict[str, str]
    left: tuple[Finding, ...]
    patched: tuple[PatchResult, ...]
    reverse: bool = False

    @property
    def exit_code(self) -> int:
        """1 when a patch didn't fit, else 0."""
        return int(any(item.status == UNFIT for item in self.patched))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "written": self.written, "left": [item.to_json() for item in self.left],
            "patches": [
                {"file": item.patch.file.name, "means": item.patch.means, "status": item.status, "reason": item.reason}
                for item in self.patched
            ],
            "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        lines = [f"{target}: the corrected copy of {source}" for source, target in self.written.items()]
        words = {APPLIED: "taken out", THERE: "isn't there"} if self.reverse else {}
        for item in self.patched:
            status = words.get(item.status, item.status)
            lines.append(f"{item.patch.file.name}: {status}{': ' if item.reason else ''}{item.reason}")
            lines.append(f"    {item.patch.means}")
        if self.written:
            lines += ["", "Name the copies in --base in place of the originals."]
        if self.left:
            lines += ["", "For you to correct:", *(f"  {item}\n    {item.remedy}" for item in self.left)]
        return "\n".join(lines or ["Nothing to correct."]) + "\n"


def check(folder: Path, bases: Sequence[Path]) -> CheckReport:
    """Read a checkout and a run. Raises InputError for what can't be read."""
    found, run = open_run(SatOptions(folder, bases))
    by_subject = static_findings(found, run, None)
    return CheckReport(
        found, code.state(found)[1], tuple(item for items in by_subject.values() for item in items), run is not None
    )


def fix(folder: Path, bases: Sequence[Path], *, out: Path | None, patches: Path | None, undo: bool) -> FixReport:
    """Write corrected copies of the YAMLs of a run; without `bases`, of each model's YAML that the checkout ships.

    `patches` is the folder of the patches to apply to the code. Raises InputError, MissingToolError.
    """
    found, run = open_run(SatOptions(folder, bases))
    if out is not None and not out.is_dir():
        raise InputError(f"{out}: no such folder; expected one for the corrected copies", f"mkdir -p '{out}'")
    done = () if patches is None else tuple(apply(found, read_patches(patches), reverse=undo))
    if undo:
        return FixReport({}, (), done, reverse=True)
    written: dict[str, str] = {}
    left: list[Finding] = []
    for one in [run] if run else [] if patches else _shipped(found):
        findings = rules.judge(one)
        for file in one.config.files:
            target = write_corrected(file, findings, out)
            if target is not None:
                written[str(file)] = str(target)
        left += [item for item in findings if item.edit is None] if run else []
    return FixReport(written, tuple(left), done)


def _shipped(found: Checkout) -> list[Run]:
    """Return each model's YAML that the checkout ships, alone: what else a run has isn't known."""
    runs = []
    for file in sorted((found.folder / "configs").glob("cogvideox*.yaml")):
        if not file.stem.endswith("-fixed"):
            config = configs.read([file])
            runs.append(Run(found, configs.Config(config.files, {"args": {"mode": ""}, **config.data}, config.places)))
    return runs

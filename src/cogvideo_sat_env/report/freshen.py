"""`satenv freshen`: newer locks, tried in a copy of the project, taken over when everything passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.check.agreement import METADATA, check_project
from cogvideo_sat_env.doctor.check_result import FAILED
from cogvideo_sat_env.lock import freeze
from cogvideo_sat_env.lock.frozen import MANIFEST
from cogvideo_sat_env.lock.make import Solver, iso
from cogvideo_sat_env.lock.relock import lock_project
from cogvideo_sat_env.report import trial_project as trial
from cogvideo_sat_env.report.difference import compare
from cogvideo_sat_env.report.sources import read
from cogvideo_sat_env.source.wheels.make_lock import lock_wheels
from cogvideo_sat_env.spec.variants import Variant, guess_device, read_variants


@dataclass(frozen=True)
class FreshenRequest:
    """What is asked: nothing younger than `min_age` at `now` (UTC), from the channels or the metadata in `frozen`.

    `wheels`: the wheel locks of these Pythons, too. `sources` are those of `satenv create` for the environment that is
    made of the result, on this machine; none: none is made.
    """

    now: datetime
    min_age: timedelta
    frozen: Path | None = None
    wheels: tuple[Path, ...] = ()
    sources: tuple[str, ...] = ("auto",)
    level: str = "quick"
    dry_run: bool = False
    only: tuple[str, ...] = ()  # variants


@dataclass(frozen=True)
class Installed:
    """The result of an environment of one variant: "passed", "failed", or "not tried" with the reason."""

    variant: str
    status: str
    words: str


@dataclass(frozen=True)
class Freshened:
    """What came of it; `refusals` are why nothing was taken over."""

    until: datetime
    changed: list[str]
    pieces: str
    undated: tuple[str, ...]
    difference: str = ""
    installed: list[Installed] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    written: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything passed."""
        return not self.refusals

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "ok": self.ok, "until": iso(self.until), "changed": self.changed, "written": self.written,
            "refusals": self.refusals, "undated": list(self.undated), "pieces": self.pieces.splitlines(),
            "installed": [vars(item) for item in self.installed], "markdown": self.to_markdown(),
        }  # fmt: skip

    def to_markdown(self) -> str:
        """Return it as the text of a pull request."""
        if not self.changed:
            return f"Nothing newer than the present locks was published before {iso(self.until)} UTC.\n"
        lines = [f"Locked anew with what was published before {iso(self.until)} UTC.", "", self.difference.rstrip(), ""]
        lines += ["### What was tried", "", "- all files agree: " + ("yes" if self.ok else "see below")]
        lines += [f"- {item.variant}: {item.status}: {item.words}" for item in self.installed]
        if self.undated:
            lines.append(f"- of unknown age, and taken: {', '.join(self.undated)}")
        if self.refusals:
            lines += ["", "### Why nothing was written", "", *(f"- {words}" for words in self.refusals)]
        lines += ["", "### Pieces", "", *(f"- {line}" for line in self.pieces.splitlines())]
        return "\n".join(lines) + "\n"


def freshen(root: Path, request: FreshenRequest, progress: Progress) -> Freshened:
    """Lock the project at `root` anew in a copy, check and try the result, and take it over when all passes.

    Raises the errors of `lock`, `freeze` and `check`; then, as with a refusal, no file of the project has changed.
    """
    until = request.now - request.min_age
    solver = Solver(request.frozen, until=until)
    with trial.trial_project(root) as copy:
        locked = lock_project(copy, wanted=request.only, solver=solver, progress=progress)
        if request.wheels:
            lock_wheels(copy, pythons=request.wheels, until=iso(until), progress=progress)
        if (copy / METADATA / MANIFEST).is_file() and _is_new(root, copy):
            freeze.freeze(copy, copy / METADATA, frozen=request.frozen, until=until, progress=progress)
        changed, gone = trial.changes(root, copy)
        found = Freshened(until, sorted([*changed, *gone]), locked.pieces_text(), locked.undated)
        if not changed:
            return found
        difference = _difference(root, copy, changed)
        refusals = [f"{m.file}: {m.message}" for m in check_project(copy)]
        installed = [] if refusals or not request.sources else _try(copy, request, progress)
        refusals += [f"{item.variant}: {item.words}" for item in installed if item.status == "failed"]
        written = not refusals and not request.dry_run
        if written:
            trial.take_over(root, copy, changed, gone)
        return replace(found, difference=difference, installed=installed, refusals=refusals, written=written)


def _is_new(root: Path, copy: Path) -> bool:
    """Return whether a lock changed: metadata that gave the present ones stays as it is."""
    return any(name != METADATA and not name.startswith(f"{METADATA}/") for name in trial.changes(root, copy)[0])


def _difference(root: Path, copy: Path, changed: Sequence[str]) -> str:
    """Return what the locks differ by, as Markdown."""
    parts = []
    for name in dict.fromkeys(variant.lock for variant in read_variants()):
        if (root / name).is_file():
            before = read(root / name)
            found = compare(before, read(copy / name) if name in changed else before)
            parts.append(f"## {name}\n\n{found.to_markdown().rstrip()}")
        else:
            parts.append(f"## {name}\n\nnew")
    return "\n\n".join(parts)


def _try(copy: Path, request: FreshenRequest, progress: Progress) -> list[Installed]:
    """Make an environment of this machine's variant and have the doctor examine it; say it of the others."""
    platform = current_platform()
    device, why = guess_device(platform)
    found = []
    for variant in read_variants():
        if request.only and variant.id not in request.only:
            continue
        if variant.platform != platform:
            found.append(Installed(variant.id, "not tried", f"this machine is {platform}"))
        elif variant.device != device:
            found.append(Installed(variant.id, "not tried", why))
        else:
            progress.say(f"{variant.id}: making the environment to try it")
            found.append(_install(copy, variant, request))
    return found


def _install(copy: Path, variant: Variant, request: FreshenRequest) -> Installed:
    prefix = copy.parent / "env"
    sources = [part for source in request.sources for part in ("--source", source)]
    made = trial.ask(copy, "create", "-p", str(prefix), "--variant", variant.device, "--no-doctor", *sources)
    if made.code != 0 or not made.data:
        status = "not tried" if made.code == 5 else "failed"  # a source that isn't reached says nothing of the lock
        return Installed(variant.id, status, f"no environment: {made.words}")
    doctor = trial.ask(copy, "doctor", "-p", str(prefix), "--level", request.level)
    results = (doctor.data or {}).get("results", [])
    bad = [f"{result['id']}: {result['finding']}" for result in results if result["status"] == FAILED]
    about = f"{made.data['packages']} packages from {made.data['source']}"
    if made.data["source"] == "wheels":
        about += ", which proves the wheel lock, not the conda lock"
    if bad or not results:
        return Installed(variant.id, "failed", f"{about}; doctor: {'; '.join(bad) or doctor.words}")
    passed = sum(result["status"] == "passed" for result in results)
    return Installed(variant.id, "passed", f"{about}; doctor --level {request.level}: {passed} checks passed")

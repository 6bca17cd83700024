"""`satenv freshen --probe-bounds`: for every bound of the ledger, what happens beyond it, and which check decides."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.artefacts import channel_url
from cogvideo_sat_env.base.errors import InputError, SatenvError, SolveError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.doctor.check_result import FAILED, PASSED
from cogvideo_sat_env.lock import pip_index, solve
from cogvideo_sat_env.lock.frozen import asked_channels
from cogvideo_sat_env.lock.make import Solver, index_pages, iso
from cogvideo_sat_env.lock.pip_proxy import RefusalError
from cogvideo_sat_env.lock.relock import lock_project
from cogvideo_sat_env.report import trial_project as trial
from cogvideo_sat_env.report.freshen import FreshenRequest
from cogvideo_sat_env.source.wheels.lockfile import choose_python, read_wheel_lock
from cogvideo_sat_env.source.wheels.make_lock import lock_wheels
from cogvideo_sat_env.spec.breakage import LedgerEntry, read_ledger
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec, read_environment
from cogvideo_sat_env.spec.variants import derive, guess_device, read_variants

HOLDS, LIFT, OPEN = "holds", "could be lifted", "not decided here"
LEDGER_ONLY = "identity.bounds"  # it says what the ledger says: no evidence of its own
_BEYOND = {"<": ">=", "<=": ">", ">=": "<", ">": "<=", "==": "!=", "!=": "=="}


@dataclass(frozen=True)
class BoundVerdict:
    """What is known of one bound: HOLDS, LIFT or OPEN, and why in words; `decided_by` are ids of doctor checks."""

    id: str
    bound: str
    verdict: str
    words: str
    decided_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probed:
    """The verdicts of all bounds that were probed."""

    verdicts: list[BoundVerdict] = field(default_factory=list)

    def to_json(self) -> list[dict[str, Any]]:
        """Return them for scripts."""
        return [{**vars(item), "decided_by": list(item.decided_by)} for item in self.verdicts]

    def to_markdown(self) -> str:
        """Return them as a table for a pull request."""
        lines = ["### Bounds of the ledger", "", "| entry | bound | verdict | decided by |", "|---|---|---|---|"]
        lines += [
            f"| {v.id} | `{v.bound}` | **{v.verdict}**: {v.words} | {', '.join(v.decided_by) or '–'} |"
            for v in self.verdicts
        ]
        return "\n".join(lines) + "\n"


def beyond(bound: str) -> str | None:
    """Return the clause that admits what `bound` refuses; None for one without such a clause (a build)."""
    if bound[:1].isdigit():
        return f"!={bound}"
    operator = bound[:2] if bound[:2] in _BEYOND else bound[:1]
    return f"{_BEYOND[operator]}{bound[len(operator) :]}" if operator in _BEYOND else None


def probe(root: Path, request: FreshenRequest, wanted: Sequence[str], progress: Progress) -> Probed:
    """Try beyond each bound (`wanted`: ids of entries; none: all) of the project at `root`.

    First the solvers are asked for what lies beyond it, with the other bounds, then without them. Where an environment
    of that can be made on this machine, the checks that the ledger names as proof decide, if they pass in one that was
    made with the bound. Raises InputError, SourceError.
    """
    entries = read_ledger().entries
    unknown = sorted(set(wanted) - {entry.id for entry in entries})
    if unknown:
        raise InputError(f"no entry {', '.join(unknown)}", f"there is: {', '.join(entry.id for entry in entries)}")
    bench = _Bench(root, request, progress)
    found = []
    for entry in entries:
        if not wanted or entry.id in wanted:
            progress.say(f"{entry.id}: trying beyond {entry.package} {entry.bound}")
            found.append(bench.verdict(entry, entries))
    return Probed(found)


class _Bench:
    """One machine on which bounds are tried, with what it learnt of the environment that keeps them."""

    def __init__(self, root: Path, request: FreshenRequest, progress: Progress) -> None:
        self._root, self._request, self._progress = root, request, progress
        self._environment = read_environment(root / "environment.yml")
        self._solver = Solver(request.frozen, until=request.now - request.min_age)
        self._variant = next(variant for variant in read_variants() if variant.is_primary)
        self._kept: dict[str, dict[str, str]] = {}  # results by check of the environment with all bounds

    def verdict(self, entry: LedgerEntry, entries: Sequence[LedgerEntry]) -> BoundVerdict:
        """Return what is known of the bound of `entry`."""
        clause, bound = beyond(entry.bound), f"{entry.package} {entry.bound}"
        if clause is None:
            words = f"needs a machine where the solver has a choice: {entry.bound!r} is a build, not a version"
            return BoundVerdict(entry.id, bound, OPEN, words)
        spec = self._environment.conda_spec(entry.package) or self._environment.pip_spec(entry.package)
        if spec is None:
            return BoundVerdict(entry.id, bound, OPEN, "environment.yml doesn't ask for it")
        try:
            version, lifted = self._beyond(entry, spec, clause, entries)
        except SolveError as error:
            return BoundVerdict(entry.id, bound, OPEN, f"nothing beyond it solves: {error.message.splitlines()[0]}")
        with_it = f" (with {', '.join(other.id for other in lifted)} lifted, too)" if lifted else ""
        checks = [check for check in entry.proof.checks if check != LEDGER_ONLY]
        if not self._request.sources:
            words = f"{version} solves{with_it}; no environment was made (--no-install)"
            return BoundVerdict(entry.id, bound, OPEN, words)
        try:
            if self._source() == "wheels" and not entry.pypi_name:
                raise SolveError("this machine reaches no channel, and no wheel is bounded by it")
            now = self._results(self._changed(entry, clause, lifted), checks, entry)
        except SatenvError as error:
            needs = ", ".join(checks) or "the doctor"
            return BoundVerdict(entry.id, bound, OPEN, f"{version} solves{with_it}; needs {needs}, but {error.message}")
        return self._judge(entry, f"{version}{with_it}", checks, now)

    def _judge(self, entry: LedgerEntry, version: str, checks: Sequence[str], now: Mapping[str, str]) -> BoundVerdict:
        bound = f"{entry.package} {entry.bound}"
        before = self._results("", checks)
        broken = [check for check, status in now.items() if status.startswith(FAILED) and before.get(check) == PASSED]
        if broken:
            words = f"{version}: {now[broken[0]].partition(': ')[2]}"
            return BoundVerdict(entry.id, bound, HOLDS, words, tuple(broken))
        passed = tuple(check for check in now if now[check] == PASSED and before.get(check) == PASSED)
        unclear = [check for check in checks if check not in passed]
        if unclear or not passed:
            what = ", ".join(unclear) or "the doctor"
            words = f"{version}; {what} doesn't pass on this machine with the bound, either"
            return BoundVerdict(entry.id, bound, OPEN, words)
        return BoundVerdict(entry.id, bound, LIFT, f"{version} passes", passed)

    def _beyond(
        self, entry: LedgerEntry, spec: CondaSpec | PipSpec, clause: str, entries: Sequence[LedgerEntry]
    ) -> tuple[str, list[LedgerEntry]]:
        """Return the version that is taken beyond the bound, and the other entries that had to be lifted for it."""
        if isinstance(spec, PipSpec):
            return self._newest(spec, clause), []
        others = [other for other in entries if other.id != entry.id and self._environment.conda_spec(other.package)]
        try:
            return self._solved(entry, clause, []), []
        except SolveError:
            version = self._solved(entry, clause, others)  # without all of them: else nothing can be bound
        needed = list(others)
        for other in others:  # those that it solves without are not named
            fewer = [one for one in needed if one is not other]
            try:
                version, needed = self._solved(entry, clause, fewer), fewer
            except SolveError:
                continue
        return version, needed

    def _newest(self, spec: PipSpec, clause: str) -> str:
        """Return the newest release of the index beyond a bound of the pip part. Raises SolveError."""
        until = iso(self._solver.until)
        try:
            files = index_pages(self._request.frozen).files(canonicalize_name(spec.name))
        except RefusalError as error:
            raise SolveError(f"the package index has no {spec.name}: {error}") from error
        old = [file for file in files if not file.is_yanked and file.uploaded <= until]
        for version in pip_index.newest(old):
            if SpecifierSet(clause).contains(version):
                return f"{spec.name} {version}"
        raise SolveError(f"the package index has no {spec.name} {clause}")

    def _solved(self, entry: LedgerEntry, clause: str, lifted: Sequence[LedgerEntry]) -> str:
        environment = rewritten(self._environment, entry, clause, lifted)
        specs = [str(spec) for spec in derive(environment, self._variant, environment.path).conda]
        with asked_channels(environment.channels, self._request.frozen) as channels:
            records = solve.solve(
                list(channels), specs, self._variant.platform, self._variant.virtual_packages,
                until=iso(self._solver.until),
            )  # fmt: skip
        record = next(record for record in records if record["name"] == entry.package)
        return f"{entry.package} {record['version']}"

    def _changed(self, entry: LedgerEntry, clause: str, lifted: Sequence[LedgerEntry]) -> str:
        """Return the text of environment.yml that asks for what lies beyond the bound."""
        text = self._environment.path.read_text(encoding="utf-8").splitlines()
        after = rewritten(self._environment, entry, clause, lifted)
        before = (*self._environment.conda, *self._environment.pip)
        for old, new in zip(before, (*after.conda, *after.pip), strict=True):
            if old != new:
                line = text[old.line - 1]
                text[old.line - 1] = f"{line[: len(line) - len(line.lstrip())]}- {new}"
        return "\n".join(text) + "\n"

    def _results(self, environment: str, checks: Sequence[str], entry: LedgerEntry | None = None) -> dict[str, str]:
        """Return what the doctor's checks say in an environment of this text; of the project's own for "".

        Without `checks` the quick level decides. Raises SatenvError where none can be made here.
        """
        key = environment or " ".join(checks)
        if not environment and key in self._kept:
            return self._kept[key]
        with trial.trial_project(self._root) as copy:
            if environment:
                (copy / "environment.yml").write_text(environment, encoding="utf-8")
            results = self._examined(copy, entry, checks)
        if not environment:
            self._kept[key] = results
        return results

    def _examined(self, copy: Path, entry: LedgerEntry | None, checks: Sequence[str]) -> dict[str, str]:
        platform = current_platform()
        device = guess_device(platform)[0]
        variant = next((v for v in read_variants() if (v.platform, v.device) == (platform, device)), None)
        if variant is None:
            raise SolveError(f"this machine is {platform} with {device}, for which there is no variant")
        source = self._source()
        if entry and source == "wheels":
            python, path = choose_python(copy / "locks", None)
            lock_wheels(copy, pythons=[python.executable], until=iso(self._solver.until), progress=self._progress)
            taken = next((pin for pin in read_wheel_lock(path).pins if pin.name == entry.pypi_name), None)
            if taken is None or SpecifierSet(entry.pypi_bound or "").contains(taken.version, prereleases=True):
                raise SolveError(f"the wheels resolve to {taken.version if taken else 'none'}, within the bound")
        elif entry:
            lock_project(copy, wanted=[variant.id], solver=self._solver, progress=self._progress)
        prefix = copy.parent / "env"
        made = trial.ask(copy, "create", "-p", str(prefix), "--variant", device, "--no-doctor", "--source", source)
        if made.code != 0:
            raise SolveError(f"no environment of it can be made here: {made.words}")
        options = [part for check in checks for part in ("--only", check)]
        options = options or ["--level", "quick", "--skip", LEDGER_ONLY]
        doctor = trial.ask(copy, "doctor", "-p", str(prefix), "--level", "full", *options)
        shutil.rmtree(prefix, ignore_errors=True)
        if not doctor.data:
            raise SolveError(f"the doctor can't examine it: {doctor.words}")
        return {
            result["id"]: result["status"] if result["status"] == PASSED else f"{result['status']}: {result['finding']}"
            for result in doctor.data["results"]
        }

    def _source(self) -> str:
        """Return the source that an environment can be made from here: the channels where they answer, else wheels."""
        if self._request.sources != ("auto",):
            return self._request.sources[0]
        try:
            solve.require_answers([channel_url(channel) for channel in self._environment.channels])
        except SatenvError:
            return "wheels"
        return "channel"


def rewritten(environment: Environment, entry: LedgerEntry, clause: str, lifted: Sequence[LedgerEntry]) -> Environment:
    """Return the environment with `clause` in place of the entry's bound, and without the bounds of `lifted`."""
    changes = {(canonicalize_name(entry.package), entry.bound): clause}
    changes |= {(canonicalize_name(other.package), other.bound): "" for other in lifted}

    def clauses(spec: CondaSpec | PipSpec, version: str) -> str:
        parts = [changes.get((canonicalize_name(spec.name), part), part) for part in version.split(",")]
        return ",".join(part for part in parts if part)

    conda = tuple(
        replace(spec, version=clauses(spec, spec.version),
                build="" if changes.get((canonicalize_name(spec.name), spec.build)) == "" else spec.build)
        for spec in environment.conda
    )  # fmt: skip
    pip = tuple(replace(spec, specifier=clauses(spec, spec.specifier)) for spec in environment.pip)
    return replace(environment, conda=conda, pip=pip)

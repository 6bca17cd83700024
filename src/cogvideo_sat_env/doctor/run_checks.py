"""One run: each check in its own process of the prefix's Python, with a time limit; every way to end is a result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv, spell_out
from cogvideo_sat_env.base.errors import InputError, SatenvError
from cogvideo_sat_env.doctor.causes import Suspect, import_culprits
from cogvideo_sat_env.doctor.check_result import FAILED, GPU, NOT_RUN, PASSED, WARNING, CheckResult, CheckSpec
from cogvideo_sat_env.doctor.checks._probe import loader_errors
from cogvideo_sat_env.doctor.exit_reasons import how_it_ended, last_words, read_outcome, stale_lock
from cogvideo_sat_env.doctor.remedies import advise, fit, install
from cogvideo_sat_env.doctor.symptoms import explain, read_symptoms
from cogvideo_sat_env.spec.breakage import Ledger

PROBES = Path(__file__).resolve().parent / "checks"
_TAIL_LINES = 30
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STARTED = "started"  # checks/_harness.py
_LOADER = ("LD_PRELOAD", "LD_LIBRARY_PATH")
_IMPORTS = "imports.together"
_OF_THE_MACHINE = ("toolchain", "hardware", "network", "storage", "sat")  # their remedies aren't packages of the lock
_EXPLAINED = ("ledger", "breaks", "means")  # of a failure whose cause is another
_TRIAL = 60.0  # seconds for one trial of an import without some of the user's settings
_GRACE = 10.0  # seconds between asking a probe to end and ending it

Unit = tuple[CheckSpec, ...]  # checks that share one process


@dataclass
class CheckRun:
    """One run of checks: the processes and their results.

    folder    of this run's own, and empty
    prefix    the environment; python is its Python, probes the folder of the probe code, inputs what each probe gets
    env       as a job of the user's has them
    workers   processes at once
    patience  factor of all time limits
    blocked   why nothing that imports torch can work on this machine now, and the remedy; None when it may
    culprits  settings of the user's with which Python doesn't start, or isn't the environment's: light checks do
              without them, so that they can say what else is wrong
    suspects  settings of the user's that may be the cause when an import fails
    """

    folder: Path
    prefix: Path
    python: Path
    probes: Path
    env: Mapping[str, str]
    inputs: Mapping[str, Any]
    ledger: Ledger
    workers: int
    patience: float
    blocked: tuple[str, str] | None
    culprits: Sequence[Suspect]
    suspects: Sequence[Suspect]

    def __post_init__(self) -> None:
        self._symptoms = read_symptoms()
        (self.folder / "shared").mkdir()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._cause: Sequence[Suspect] = ()

    def all(self, chosen: Sequence[CheckSpec], on_check: Callable[[CheckResult], None] | None) -> list[CheckResult]:
        """Run all checks, at most `workers` processes at once; the results come back in the order of `chosen`."""
        done: dict[str, CheckResult] = {}

        def end(result: CheckResult) -> None:
            done[result.id] = result
            if on_check is not None:
                on_check(result)

        for spec in chosen:
            result = self._without_process(spec)
            if result is not None:
                end(result)
        waiting = _units([spec for spec in chosen if spec.id not in done])
        running: dict[Future[list[CheckResult]], Unit] = {}
        ids = {spec.id for spec in chosen}
        pool = ThreadPoolExecutor(self.workers)
        try:
            while waiting or running:
                for unit in list(waiting):
                    before = [name for spec in unit for name in spec.after if name in ids]
                    if all(name in done for name in before) and self._is_room(unit, list(running.values())):
                        waiting.remove(unit)
                        running[pool.submit(self._unit, unit)] = unit
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    unit = running.pop(future)
                    results = future.result()
                    for result in results:
                        end(result)
                    left = unit[len(results) :]  # the process died before it came to these
                    if left and len(results) == 1 and results[0].details.get("timed_out"):
                        for spec in left:  # they would wait for the same
                            reason = f"not run: {results[0].id} didn't end"
                            end(CheckResult(spec.id, spec.level, NOT_RUN, 0.0, reason))
                    elif left:
                        waiting.append(left)
        finally:  # after an interrupt too: no process outlives the doctor
            self._stopped = True
            try:
                for process in list(self._running):
                    _end(process)
            except BaseException:  # interrupted again: no more politeness
                for process in list(self._running):
                    _signal(process.pid, signal.SIGKILL)
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return [self._with_cause(done[spec.id], spec.light) for spec in chosen]

    def _without_process(self, spec: CheckSpec) -> CheckResult | None:
        """Return the result of a check that makes no sense here, or would hang; None for one to be run."""
        gpu = self.inputs["gpu"]
        if spec.made and self.inputs["foreign"]:
            reason = f"not run: {self.python} is examined as it is, not as an environment made from a lock"
            return CheckResult(spec.id, spec.level, NOT_RUN, 0.0, reason)
        if spec.training and self.inputs["data_only"]:
            return CheckResult(spec.id, spec.level, NOT_RUN, 0.0, "not run: this environment only prepares data")
        if self.blocked and not spec.light:
            return CheckResult(spec.id, spec.level, FAILED, 0.0, *self.blocked)
        if spec.level == GPU and not gpu["gpus"]:
            problem = f" ({gpu['problem']})" if gpu["problem"] else ""
            return CheckResult(spec.id, spec.level, NOT_RUN, 0.0, f"not run: no GPU{problem}")
        return None

    def _with_cause(self, result: CheckResult, light: bool) -> CheckResult:
        """Return a failed result with the setting of the user's that is its cause, where that was found."""
        cause = list(self._cause or self.culprits)
        if result.status != FAILED or light or not cause:
            return result
        shown = ", ".join(one.shown for one in cause)
        return replace(
            result, finding=f"{result.finding}; the cause is {shown}",
            remedy="; ".join(dict.fromkeys(one.remedy for one in cause)),
            details={name: value for name, value in result.details.items() if name not in _EXPLAINED},
        )  # fmt: skip

    def _is_room(self, unit: Unit, running: list[Unit]) -> bool:
        alone = any(spec.alone for other in (unit, *running) for spec in other)
        return not running or (len(running) < self.workers and not alone)

    def _unit(self, unit: Unit) -> list[CheckResult]:
        """Run one process; return the results of its first checks, at least one: up to where the process ended."""
        spec = unit[0]
        start = time.monotonic()
        with writing_to(self.folder):
            folder = Path(tempfile.mkdtemp(prefix=f"{spec.id}-", dir=self.folder))
            self._ask(folder, unit)
        log = folder / "output"
        # what joins a process finds its imports done: it needs a part of its own limit only
        limit = self.patience * (max(other.limit for other in unit) + 10.0 * (len(unit) - 1))
        try:
            code = self._process(folder, log, limit, spec.light)
        except OSError as error:
            finding = f"the environment's Python can't be started: {error}"
            outcome = {"status": FAILED, "finding": finding, "remedy": self.inputs["restore"]}
            return [self._result(spec, time.monotonic() - start, outcome, "")]
        total = time.monotonic() - start
        output = log.read_bytes()[-200_000:].decode("utf-8", errors="replace")
        found: list[dict[str, Any]] = []
        while answer := read_outcome(folder / f"result-{len(found)}.json"):
            found.append(answer)
        seconds = [float(outcome["seconds"]) for outcome in found]
        if seconds:
            seconds[0] = total - sum(seconds[1:])  # the start of the process counts as the first check's
        results = [self._result(*check, output) for check in zip(unit, seconds, found, strict=False)]
        if len(found) < len(unit) and (not found or code is None):
            broken, spent = unit[len(found)], total - sum(seconds)
            if code is None:
                lock = stale_lock(self.env)
                remedy = f"a compilation was interrupted here earlier: rm '{lock}'" if lock else None
                finding = f"no answer within {limit:.0f} s; ended{last_words(output)}"
            else:
                finding, remedy = how_it_ended(code, output), None
                if not (folder / _STARTED).exists():
                    leaking = " ".join(name for name in _LOADER if self.env.get(name))
                    finding = f"the environment's Python doesn't start: {finding}"
                    remedy = self.inputs["restore"]
                    remedy = f"unset {leaking}; if that isn't it, {remedy}" if leaking else remedy
            details = {"timed_out": True} if code is None else {}
            outcome = {"status": FAILED, "finding": finding, "remedy": remedy, "details": details}
            results.append(self._result(broken, spent, outcome, output))
        self._look_for_cause(results, folder)
        return results

    def _look_for_cause(self, results: Sequence[CheckResult], folder: Path) -> None:
        """Find out whether a setting of the user's keeps modules from being imported."""
        problems = next((r.details.get("problems") for r in results if r.id == _IMPORTS and r.status == FAILED), None)
        if problems and not self.culprits:
            modules = list(problems)[-2:]  # the closure's last are the quickest to import
            self._cause = import_culprits(self.python, self.env, self.suspects, modules, folder, _TRIAL)

    def _ask(self, folder: Path, unit: Unit) -> None:
        """Write the request of one process into `folder` (checks/_harness.py)."""
        for index in range(len(unit)):
            (folder / f"work-{index}").mkdir()
        request = {
            "folder": str(self.probes),
            "checks": [(spec.subject, spec.function) for spec in unit],
            "shared": str(self.folder / "shared"),
            "inputs": self.inputs,
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")

    def _process(self, folder: Path, log: Path, limit: float, light: bool) -> int | None:
        """Run the probe's process; return its exit code, None when it took longer than `limit` seconds."""
        harness = str(PROBES / "_harness.py")  # not the probes' folder: that may be a test's
        command = [str(self.python), harness, str(folder / "request.json")]
        env = self.env
        for culprit in self.culprits if light else ():
            env = culprit.without(env)
        with log.open("wb") as sink:  # a file, not a pipe: a grandchild that lives on can't block the doctor
            process = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._running.add(process)
        try:
            if self._stopped:
                raise SatenvError("the doctor was stopped")
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)
            self._running.discard(process)

    def _result(self, spec: CheckSpec, seconds: float, outcome: dict[str, Any], output: str) -> CheckResult:
        finding = " ".join(str(outcome["finding"]).split())
        remedy, details = outcome.get("remedy"), dict(outcome.get("details") or {})
        if outcome["status"] == PASSED and spec.loader_errors:
            complaints = loader_errors(output, bool(self.inputs["gpu"]["gpus"]))
            if complaints:
                finding = f"{finding}, but the loader says: {complaints[0][:300]}"
                outcome = outcome | {"status": FAILED}
        if outcome["status"] in (FAILED, WARNING):
            words = "\n".join([finding, json.dumps(details, ensure_ascii=False), output])
            advice = advise(self.ledger, spec.id, words, outcome.get("ledger") or ())
            if advice is not None:
                details |= {"ledger": advice.id, "breaks": advice.breaks}
                ours = spec.subject in _OF_THE_MACHINE and not self.inputs["conda"]  # there is no mamba
                remedy = remedy if remedy and ours else advice.remedy
        if outcome["status"] == FAILED and not remedy:
            words = f"{finding} {json.dumps(details)}"
            remedy = install(self.inputs["requirements"], words, self.inputs["conda"], self.inputs["bounds"])
            if not remedy:
                symptom = explain(self._symptoms, spec.id, f"{finding}\n{output}")
                if symptom is not None:
                    remedy = symptom.remedy.replace("PREFIX", f"'{self.prefix}'")
                    details["means"] = symptom.means
            if not remedy and self.inputs["receipt"] and spec.subject == "imports":
                remedy = self.inputs["restore"]  # what the lock has can be imported: files are gone, or others
            remedy = remedy or self._last_resort(spec.id, finding)
        if remedy and spec.subject not in _OF_THE_MACHINE:
            restore = self.inputs["restore"] if self.inputs["receipt"] else None
            remedy = fit(remedy, restore, self.inputs["conda"], self.inputs["requirements"])
        if outcome["status"] == FAILED:
            details["output"] = _ANSI.sub("", output).splitlines()[-_TAIL_LINES:]
        remedy = spell_out(remedy) if remedy else None
        return CheckResult(spec.id, spec.level, outcome["status"], seconds, finding, remedy, details)

    def _last_resort(self, check: str, finding: str) -> str:
        """Return what to do about a failure that nobody has met before."""
        prefix = self.prefix
        if check.startswith("sat."):
            return f"correct that; the same command with --only {check} --json shows everything that it printed"
        if "Error building extension" in finding and any(character.isspace() for character in str(prefix)):
            return "make the environment in a folder without spaces: torch passes paths to the linker unquoted"
        named = ("--python", self.python) if self.inputs["foreign"] else ("-p", prefix)
        return f"see everything that it printed: {satenv(f'doctor --json {named[0]}', named[1])} --only {check}"


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise InputError when the doctor's own temporary files can't be written to `folder`: no finding can be had."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: {error.strerror}; expected a folder for temporary files (TMPDIR)",
            "export TMPDIR with a folder that can be written and has 1 GB of room",
        ) from error


def _units(chosen: Sequence[CheckSpec]) -> list[Unit]:
    """Group checks that may share a process: one that joins another comes straight after it."""
    ids = {spec.id for spec in chosen}
    units = {spec.id: [spec] for spec in chosen if spec.joins not in ids}
    for spec in chosen:
        if spec.joins in ids:
            units[spec.joins].append(spec)
    # the longest first: with two processes at once the sum is then shortest
    return sorted((tuple(unit) for unit in units.values()), key=lambda unit: -sum(spec.limit for spec in unit))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started; first politely, so that compilation locks are released."""
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        if process.poll() is None:
            _signal(process.pid, number)
            try:
                process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                continue
    _signal(process.pid, signal.SIGKILL)  # what it left behind in its session


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # all gone already (macOS says EPERM for a zombie's group)
        return

"""Runs the checks: each in its own process of the prefix's Python, with a time limit; every way to end is a result."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env import yamlfile
from cogvideo_sat_env.doctor import activation, catalogue
from cogvideo_sat_env.doctor.hardware import Hardware, NvidiaSmi
from cogvideo_sat_env.doctor.model import FAILED, LEVELS, NOT_RUN, STATUSES, WARNING, CheckResult, CheckSpec
from cogvideo_sat_env.doctor.remedies import advise, install
from cogvideo_sat_env.doctor.report import Report
from cogvideo_sat_env.errors import PrefixError, SatenvError
from cogvideo_sat_env.ledger import Ledger, read_ledger
from cogvideo_sat_env.paths import DATA

PROBES = Path(__file__).resolve().parent / "checks"
RECEIPT = Path("etc", "cogvideo-sat-env", "receipt.json")
_TAIL_LINES = 30
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GRACE = 10.0  # seconds between asking a probe to end and ending it
_CANNOT_LOAD = 70  # checks/_harness.py
# The user's variables that can leak into an environment; identity.pollution judges them.
_WATCHED = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME",
    "CUDA_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CONDA_PREFIX",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
)  # fmt: skip


Unit = tuple[CheckSpec, ...]  # checks that share one process


class Doctor:
    """One examination of one prefix.

    `checks`, `probes` (the folder of the probe code) and `environ` (the user's variables) are there for tests.
    """

    def __init__(
        self,
        prefix: Path,
        *,
        hardware: Hardware | None = None,
        checks: Sequence[CheckSpec] = catalogue.CHECKS,
        probes: Path = PROBES,
        environ: Mapping[str, str] | None = None,
        workers: int | None = None,
    ) -> None:
        self.prefix = Path(os.path.abspath(prefix))  # not resolved: a release's link is the name that users activate
        self.python = self.prefix / "bin" / "python"
        if not os.access(self.python, os.X_OK):
            raise PrefixError(
                f"{self.python}: no such program; expected the Python of an environment in {self.prefix}",
                "name the environment with -p PREFIX, or make it: scripts/satenv create",
            )
        self._hardware = hardware or NvidiaSmi()
        self._checks = checks
        self._probes = probes
        self._environ = dict(os.environ if environ is None else environ)
        self._workers = workers or min(2, os.cpu_count() or 1)  # more processes need more memory than time they save
        self._ledger: Ledger = read_ledger()

    def run(
        self,
        level: str,
        only: Sequence[str] = (),
        skip: Sequence[str] = (),
        on_check: Callable[[CheckResult], None] | None = None,
    ) -> Report:
        """Run the checks of `level`; `on_check` is called in this thread as each one ends."""
        chosen = catalogue.select(level, only, skip, self._checks)
        started, clock = datetime.now(timezone.utc), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="satenv-doctor-", ignore_cleanup_errors=True) as folder:
            visit = _Visit(self, Path(folder))
            results = visit.all(chosen, on_check)
        return Report(self.prefix, level, started, time.monotonic() - clock, tuple(results))

    def inputs(self, active: activation.Activation) -> dict[str, Any]:
        """Return what every probe is told (see Request in checks/_probe.py)."""
        requirements, _ = yamlfile.load(DATA / "requirements.yml", "the list of requirements")
        receipt, problem = self._receipt()
        bounds = [
            {"id": entry.id, "name": entry.pypi_name, "bound": entry.pypi_bound}
            for entry in self._ledger.entries
            if entry.pypi_name
        ]
        bounds += [
            {"id": entry.id, "name": "python", "bound": entry.bound}
            for entry in self._ledger.entries
            if entry.package == "python"
        ]
        provided = receipt.get("not_provided") or []
        return {
            "prefix": str(self.prefix),
            "requirements": requirements["requirements"],
            "bounds": bounds,
            "variables": [
                {"id": entry.id, "name": entry.package, "value": entry.bound} for entry in self._ledger.variables
            ],
            "data_only": bool(receipt.get("data_only")),
            "not_provided": [item["name"] if isinstance(item, dict) else str(item) for item in provided],
            "receipt": receipt or None,
            "receipt_problem": problem,
            "activation": {"sets": active.sets, "scripts": active.scripts, "problems": active.problems},
            "user": {name: self._environ[name] for name in _WATCHED if name in self._environ},
            "gpu": asdict(self._hardware.gpu_facts()),
        }

    def _receipt(self) -> tuple[dict[str, Any], str | None]:
        path = self.prefix / RECEIPT
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # an environment that mamba or pip made: allowed
            return {}, None
        except (OSError, ValueError) as error:
            return {}, f"{path}: {error}; expected the receipt, a JSON object"
        if not isinstance(content, dict):
            return {}, f"{path}: expected the receipt, a JSON object"
        return content, None


class _Visit:
    """One run: its private folder, the captured environment, the processes."""

    def __init__(self, doctor: Doctor, folder: Path) -> None:
        self._doctor = doctor
        self._folder = folder
        (folder / "shared").mkdir()
        (folder / "tmp").mkdir()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        active = activation.capture(doctor.prefix, folder, doctor._environ)
        self._env = active.env | {
            "TMPDIR": str(folder / "tmp"),
            "PYTHONFAULTHANDLER": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
            # probes need no network and must not write to the user's caches
            "HF_HOME": str(folder / "tmp" / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "MPLCONFIGDIR": str(folder / "tmp" / "matplotlib"),
            "TRITON_CACHE_DIR": str(folder / "tmp" / "triton"),
        }
        self._inputs = doctor.inputs(active)

    def all(
        self, chosen: Sequence[CheckSpec], on_check: Callable[[CheckResult], None] | None
    ) -> list[CheckResult]:
        """Run all checks, at most `workers` processes at once; the results come back in the order of `chosen`."""
        done: dict[str, CheckResult] = {}
        waiting = _units(chosen)
        running: dict[Future[list[CheckResult]], Unit] = {}
        ids = {spec.id for spec in chosen}
        pool = ThreadPoolExecutor(self._doctor._workers)
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
                        done[result.id] = result
                        if on_check is not None:
                            on_check(result)
                    left = unit[len(results) :]  # the process died before it came to these
                    if left:
                        waiting.append(left)
        finally:  # after an interrupt too: no process outlives the doctor
            self._stopped = True
            for process in list(self._running):
                _end(process)
            pool.shutdown(wait=True, cancel_futures=True)
        return [done[spec.id] for spec in chosen]

    def _is_room(self, unit: Unit, running: list[Unit]) -> bool:
        alone = any(spec.alone for other in (unit, *running) for spec in other)
        return not running or (len(running) < self._doctor._workers and not alone)

    def _unit(self, unit: Unit) -> list[CheckResult]:
        """Run one process; return the results of its first checks, at least one: up to where the process ended."""
        spec = unit[0]
        if spec.training and self._inputs["data_only"]:
            return [CheckResult(spec.id, spec.level, NOT_RUN, 0.0, "not run: this environment only prepares data")]
        start = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix=f"{spec.id}-", dir=self._folder))
        output, checks = folder / "output", []
        for index, other in enumerate(unit):
            (folder / f"work-{index}").mkdir()
            checks.append(
                {
                    "subject": other.subject,
                    "function": other.function,
                    "workdir": str(folder / f"work-{index}"),
                    "result": str(folder / f"result-{index}.json"),
                }
            )
        request = {
            "folder": str(self._doctor._probes),
            "checks": checks,
            "shared": str(self._folder / "shared"),
            "inputs": self._inputs,
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        limit = sum(other.limit for other in unit)
        try:
            code = self._process(folder, output, limit)
        except OSError as error:
            finding = f"the environment's Python can't be started: {error}"
            return [self._failure(spec, time.monotonic() - start, finding, "", _RECREATE)]
        total = time.monotonic() - start
        said = output.read_bytes()[-200_000:].decode("utf-8", errors="replace")
        outcomes = [_read_outcome(Path(check["result"])) for check in checks]
        found: list[dict[str, Any]] = []
        for outcome in outcomes:
            if outcome is None:
                break
            found.append(outcome)
        seconds = [float(outcome["seconds"]) for outcome in found]
        if seconds:
            seconds[0] = total - sum(seconds[1:])  # the start of the process counts as the first check's
        results = [self._result(*answer, said) for answer in zip(unit, seconds, found, strict=False)]
        if len(found) < len(unit) and (not found or code is None):
            broken, spent = unit[len(found)], total - sum(seconds)
            if code is None:
                lock = _stale_lock(self._env)
                remedy = f"a compilation was interrupted here earlier: rm '{lock}'" if lock else None
                finding = f"no answer within {limit:.0f} s; ended{_last_words(said)}"
            else:
                finding, remedy = _how_it_ended(code, said), None
            results.append(self._failure(broken, spent, finding, said, remedy))
        return results

    def _process(self, folder: Path, output: Path, limit: float) -> int | None:
        """Run the probe's process; return its exit code, None when it took longer than `limit` seconds."""
        harness = str(PROBES / "_harness.py")
        command = [str(self._doctor.python), "-s", harness, str(folder / "request.json")]
        with output.open("wb") as sink:  # a file, not a pipe: a grandchild that lives on can't block the doctor
            process = subprocess.Popen(
                command, env=self._env, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                start_new_session=True,
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

    def _failure(self, spec: CheckSpec, seconds: float, finding: str, said: str, remedy: str | None) -> CheckResult:
        outcome: dict[str, Any] = {"status": FAILED, "finding": finding, "remedy": remedy, "details": {}, "ledger": []}
        return self._result(spec, seconds, outcome, said)

    def _result(self, spec: CheckSpec, seconds: float, outcome: dict[str, Any], said: str) -> CheckResult:
        finding = " ".join(str(outcome["finding"]).split())
        remedy, details = outcome.get("remedy"), dict(outcome.get("details") or {})
        if outcome["status"] in (FAILED, WARNING):
            words = "\n".join([finding, json.dumps(details, ensure_ascii=False), said])
            advice = advise(self._doctor._ledger, spec.id, words, outcome.get("ledger") or ())
            if advice is not None:
                details |= {"ledger": advice.id, "breaks": advice.breaks}
                remedy = advice.remedy
        if outcome["status"] == FAILED and not remedy:
            conda = (self._doctor.prefix / "conda-meta").is_dir()
            remedy = install(self._inputs["requirements"], f"{finding} {json.dumps(details)}", conda)
            remedy = remedy or _last_resort(self._doctor.prefix, spec.id, finding)
        if outcome["status"] == FAILED:
            details["output"] = _ANSI.sub("", said).splitlines()[-_TAIL_LINES:]
        return CheckResult(spec.id, spec.level, outcome["status"], seconds, finding, remedy or None, details)


def _last_resort(prefix: Path, check: str, finding: str) -> str:
    """Return what to do about a failure that nobody has met before."""
    if "Error building extension" in finding and any(character.isspace() for character in str(prefix)):
        return "make the environment in a folder without spaces: torch passes paths to the linker unquoted"
    return f"see all that it said: satenv doctor -p '{prefix}' --only {check} --json"


def _units(chosen: Sequence[CheckSpec]) -> list[Unit]:
    """Group checks that may share a process: one that joins another comes straight after it."""
    units: list[list[CheckSpec]] = []
    for spec in chosen:
        host = next((unit for unit in units if unit[0].id == spec.joins), None)
        if host is None:
            units.append([spec])
        else:
            host.append(spec)
    # the longest first: with two processes at once the sum is then shortest
    return sorted((tuple(unit) for unit in units), key=lambda unit: -sum(spec.limit for spec in unit))


_RECREATE = "create the environment again: scripts/satenv create"


def run(
    prefix: Path,
    *,
    level: str = LEVELS[-1],
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    on_check: Callable[[CheckResult], None] | None = None,
    hardware: Hardware | None = None,
) -> Report:
    """Examine the environment in `prefix` and return the report.

    `only` and `skip` take ids or subjects; `on_check` is called as each check ends (not in the report's order).
    Raises PrefixError when there is no Python in `prefix`, InputError for an unknown level or id.
    """
    return Doctor(prefix, hardware=hardware).run(level, only, skip, on_check)


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


def _read_outcome(path: Path) -> dict[str, Any] | None:
    """Return a probe's answer, or None when there is none that can be understood."""
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(outcome, dict) and outcome.get("status") in STATUSES
    if not known or not outcome.get("finding") or not isinstance(outcome.get("seconds"), (int, float)):
        return None
    return outcome  # type: ignore[no-any-return]


def _how_it_ended(code: int, said: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        crash = {"SIGSEGV": " (segmentation fault)", "SIGKILL": " (out of memory?)", "SIGABRT": " (aborted)"}
        return f"crashed with {name}{crash.get(name, '')}{_last_words(said)}"
    if code == _CANNOT_LOAD:
        return f"this check can't be loaded{_last_words(said)}"
    return f"ended with exit code {code} and without a result{_last_words(said)}"


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # the fault handler's list of threads and extension modules comes after the line that says what happened
    telling = [line for line in lines if line.startswith("Fatal Python error")] or lines[-1:]
    return f": {telling[0][:300]}" if telling else ""


def _stale_lock(env: Mapping[str, str]) -> Path | None:
    """Return torch's oldest compilation lock file, if one is there: torch waits for its end without limit."""
    named = env.get("TORCH_EXTENSIONS_DIR")
    root = Path(named) if named else Path(env.get("HOME", "/nonexistent"), ".cache", "torch_extensions")
    locks = [*root.glob("*/lock"), *root.glob("*/*/lock")]
    return min(locks, key=lambda path: path.stat().st_mtime) if locks else None

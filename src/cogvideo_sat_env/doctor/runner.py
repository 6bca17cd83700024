"""The doctor: gathers what the checks have to know about a prefix, has them run, and returns the report."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.doctor import activated_env, catalogue
from cogvideo_sat_env.doctor.causes import start_culprits, suspects
from cogvideo_sat_env.doctor.check_result import LEVELS, CheckResult, CheckSpec
from cogvideo_sat_env.doctor.doctor_report import DoctorReport
from cogvideo_sat_env.doctor.gpu_memory import verdicts
from cogvideo_sat_env.doctor.gpus import Hardware, NvidiaSmi
from cogvideo_sat_env.doctor.lock_of_prefix import locked
from cogvideo_sat_env.doctor.run_checks import PROBES, CheckRun, writing_to
from cogvideo_sat_env.doctor.sat.examine import SatOptions, inputs
from cogvideo_sat_env.spec.breakage import Ledger, read_ledger

RECEIPT = Path("etc", "cogvideo-sat-env", "receipt.json")
_LEAST_ADDRESS_SPACE = 6 * 2**30  # bytes: `import sat` takes 6.5 GB, measured; with less it fails, or hangs
_DRIVER_SECONDS = 8.0  # for the GPU driver's first answer: it initialises the GPUs, about a second each
# The user's variables that can leak into an environment; identity.pollution judges them.
_WATCHED = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME",
    "CUDA_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CONDA_PREFIX",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "KMP_DUPLICATE_LIB_OK", "PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONWARNINGS",
    "LC_ALL", "LANG", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS", "TORCH_CUDA_ARCH_LIST", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HF_HUB_OFFLINE", "USER",
    "LOGNAME", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR", "CUDA_VISIBLE_DEVICES", "LOADEDMODULES",
)  # fmt: skip


@dataclass(frozen=True)
class Conditions:
    """What an examination is made with.

    python    any other Python, examined as it is: the prefix is then its sys.prefix, and nothing is activated
    options   settings of single checks, by "<subject>.<what>"
    patience  multiplies every check's time limit
    sat       the user's checkout and run, examined in place of the environment

    `hardware`, `checks`, `probes` (the folder of the probe code) and `environ` (the user's variables) are for tests.
    """

    python: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    patience: float = 1.0
    sat: SatOptions | None = None
    hardware: Hardware | None = None
    checks: Sequence[CheckSpec] = ()
    probes: Path = PROBES
    environ: Mapping[str, str] | None = None


class Doctor:
    """One examination of one prefix."""

    def __init__(self, prefix: Path, given: Conditions = Conditions()) -> None:
        self._given = given
        self.prefix = Path(os.path.abspath(prefix))  # not resolved: a release's link is the name that users activate
        self._foreign = given.python is not None
        self.python = Path(os.path.abspath(given.python or self.prefix / "bin" / "python"))
        _require_enterable(self.python)
        if not os.access(self.python, os.X_OK):
            ours = (self.prefix / RECEIPT).is_file()
            raise PrefixError(
                f"{self.python}: no such program; expected the Python of an environment in {self.prefix}",
                _restore(self.prefix, ours) if ours
                else f"name the environment with -p PREFIX, or make it: {satenv('create')}",
            )  # fmt: skip
        self._checks = given.checks or (catalogue.SAT_CHECKS if given.sat else catalogue.CHECKS)
        self._probes = given.probes
        self._environ = dict(os.environ if given.environ is None else given.environ)
        self._hardware = given.hardware or NvidiaSmi(environ=self._environ, seconds=_DRIVER_SECONDS * given.patience)
        self._workers = min(2, os.cpu_count() or 1)  # more processes need more memory than time they save
        self._ledger: Ledger = read_ledger()

    def run(
        self,
        level: str,
        only: Sequence[str] = (),
        skip: Sequence[str] = (),
        on_check: Callable[[CheckResult], None] | None = None,
    ) -> DoctorReport:
        """Run the checks of `level`; `on_check` is called in this thread as each one ends."""
        chosen = catalogue.select(level, only, skip, self._checks)
        started, clock = datetime.now(timezone.utc), time.monotonic()
        with writing_to(Path(os.environ.get("TMPDIR") or "/tmp")):
            temporary = tempfile.TemporaryDirectory(prefix="satenv-doctor-", ignore_cleanup_errors=True)
        with temporary as name:
            folder = Path(name)
            with ThreadPoolExecutor(1) as pool:
                machine = pool.submit(self._machine)  # a driver takes its time
                if self._foreign:
                    active = activated_env.unchanged(self._environ)
                else:
                    active = activated_env.capture(self.prefix, folder, self._environ)
                env = active.env | _private(folder / "tmp")
                settings = suspects(self._environ, foreign=self._foreign)
                culprits = start_culprits(self.python, env, settings, folder)
                inputs = self.inputs(active, machine.result())
            inputs["culprits"] = [{"shown": one.shown, "remedy": one.remedy} for one in culprits]
            results = CheckRun(
                folder, prefix=self.prefix, python=self.python, probes=self._probes, env=env, inputs=inputs,
                ledger=self._ledger, workers=self._workers, patience=self._given.patience,
                blocked=_blocked(inputs["gpu"]["stuck"]), culprits=culprits,
                suspects=suspects(self._environ, user_site=True, foreign=self._foreign),
            ).all(chosen, on_check)  # fmt: skip
        seconds = time.monotonic() - clock
        return DoctorReport(
            self.prefix, level, started, seconds, tuple(results), python=self.python if self._foreign else None
        )

    def inputs(
        self, active: activated_env.ActivatedEnvironment, machine: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what every probe gets (see ProbeRequest in checks/_probe.py); `machine`: what _machine found."""
        facts = self._machine() if machine is None else machine
        requirements, _ = yamlfile.load(DATA / "requirements.yml", "the list of requirements")
        names, _ = yamlfile.load(DATA / "upstream-names.yml", "the names that upstream uses")
        receipt, problem = ({}, None) if self._foreign else self._receipt()
        bounds = [
            {"id": entry.id, "name": entry.pypi_name, "bound": entry.pypi_bound}
            for entry in self._ledger.entries
            if entry.pypi_name
        ]
        provided = receipt.get("not_provided") or []
        if self._foreign:
            restore = f"install what is missing for {self.python}, or name a folder that has it in PYTHONPATH"
        else:
            restore = _restore(self.prefix, bool(receipt))
        return {
            "prefix": str(self.prefix),
            "python": str(self.python),
            "foreign": self._foreign,
            "requirements": requirements["requirements"],
            "upstream_names": names,
            "bounds": bounds,
            "variables": [
                {"id": entry.id, "name": entry.package, "value": entry.bound} for entry in self._ledger.variables
            ],
            "data_only": bool(receipt.get("data_only")),
            "not_provided": [item["name"] if isinstance(item, dict) else str(item) for item in provided],
            "receipt": receipt or None,
            "conda": (self.prefix / "conda-meta").is_dir() and receipt.get("source") != "wheels",
            "restore": restore,
            "receipt_problem": problem,
            "lock": locked(receipt),
            "activation": {"sets": active.sets, "scripts": active.scripts, "problems": active.problems},
            "user": {name: self._environ[name] for name in _WATCHED if name in self._environ},
            "places": _places(self._environ),
            **facts,
            **({"sat": inputs(self._given.sat, self.prefix, facts["gpu"]["gpus"])} if self._given.sat else {}),
            "options": dict(self._given.options),
        }

    def _machine(self) -> dict[str, Any]:
        """Return the GPUs, their links, the table of drivers, and which recipes fit into their memory."""
        facts = self._hardware.gpu_facts()
        drivers, _ = yamlfile.load(DATA / "drivers.yml", "the table of drivers")
        least = min((gpu.memory_mib for gpu in facts.gpus), default=0)
        return {
            "gpu": asdict(facts),
            "drivers": drivers,
            "links": [asdict(link) for link in self._hardware.links()] if facts.gpus else [],
            "plans": verdicts(least, len(facts.gpus)) if facts.gpus else {},
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


def _blocked(stuck: str | None) -> tuple[str, str] | None:
    """Return finding and remedy when importing torch would hang, or fail without saying why, on this machine now."""
    if stuck:
        return (
            f"{stuck}: torch and DeepSpeed would hang",
            "use another node, and have the administrator reset the GPU driver (nvidia-smi --gpu-reset, or a reboot);"
            " --patience 3 gives a slow one more time",
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if resource.RLIM_INFINITY != soft < _LEAST_ADDRESS_SPACE:
        open_ended = hard == resource.RLIM_INFINITY
        remedy = "ulimit -S -v unlimited" if open_ended else "have the hard limit of ulimit -v raised (batch system)"
        return f"ulimit -v is {soft // 1024:,}: torch can't be imported", remedy
    return None


def _require_enterable(python: Path) -> None:
    """Raise PrefixError where the link `python` leads to a place that this user may not enter: another user's home."""
    try:
        python.stat()
    except PermissionError:
        raise PrefixError(
            f"{python}: leads to {os.path.realpath(python)}, where this user may not look",
            "have its owner open the folders above that (chmod o+x), or make an environment of your own",
        ) from None
    except OSError:
        pass  # it isn't there, which is reported next


def _restore(prefix: Path, ours: bool) -> str:
    """Return what to type to have the environment as it was made; `ours`: it has a receipt, so it can be repaired."""
    if ours:
        return satenv("create --repair -p", prefix)
    return f"create the environment again from the lock: {satenv('create')}"


def _private(folder: Path) -> dict[str, str]:
    """Return the variables that keep probes off the network and out of the user's caches."""
    folder.mkdir()
    return {
        "TMPDIR": str(folder),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def _places(environ: Mapping[str, str]) -> dict[str, str]:
    """Return where a run of this user would write its caches, by the variable that decides it (docs/doctor.md)."""
    home = environ.get("HOME") or os.path.expanduser("~")
    cache = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return {
        "HF_HOME": environ.get("HF_HOME") or os.path.join(cache, "huggingface"),
        "TRITON_CACHE_DIR": environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache"),
        "TMPDIR": environ.get("TMPDIR") or "/tmp",
    }


def run(
    prefix: Path,
    given: Conditions = Conditions(),
    *,
    level: str = LEVELS[1],
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    on_check: Callable[[CheckResult], None] | None = None,
) -> DoctorReport:
    """Examine the environment in `prefix` and return the report.

    `only` and `skip` take ids or subjects; `on_check` is called as each check ends (not in the report's order).
    Raises PrefixError when there is no Python in `prefix`, InputError for an unknown level or id.
    """
    return Doctor(prefix, given).run(level, only, skip, on_check)

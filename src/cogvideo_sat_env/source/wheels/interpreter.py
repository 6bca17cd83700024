"""The running Python as the wheels source sees it, as the package `python`, and virtual environments made from it."""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.paths import current_platform

BUILD = "running_0"  # of the package `python`
_PROBE = """
import json, os, platform, sys, sysconfig
full = platform.python_version()
info = sys.implementation.version
print(json.dumps({
    "base": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": ".".join(map(str, sys.version_info[:3])),
    "threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "environment": {
        "implementation_name": sys.implementation.name, "implementation_version": full, "os_name": os.name,
        "platform_machine": platform.machine(), "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(), "platform_system": platform.system(),
        "platform_version": platform.version(), "python_full_version": full,
        "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform,
    },
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython of this machine. `base` is the real executable behind virtual environments and symlinks."""

    executable: Path
    base: Path
    version: str
    platform: str  # conda subdir
    environment: dict[str, str]  # PEP 508 marker variables

    @property
    def minor(self) -> str:
        """Return "3.11"."""
        return ".".join(self.version.split(".")[:2])

    @property
    def tag(self) -> str:
        """Return "py311"."""
        return "py" + self.minor.replace(".", "")

    @property
    def site_packages(self) -> str:
        """Return where its modules lie below a prefix."""
        return f"lib/python{self.minor}/site-packages"


@functools.cache
def probe(python: Path) -> Interpreter:
    """Ask `python` what it is, once in this process.

    Raises InputError when it can't be run, isn't CPython >= 3.10, or is a free-threaded build.
    """
    remedy = "name a CPython 3.10 to 3.13, e.g. python3.11"
    try:
        child = subprocess.run(
            [str(python), "-I", "-c", _PROBE], capture_output=True, text=True, check=False, timeout=60, cwd="/"
        )
        answer = json.loads(child.stdout)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        raise InputError(f"{python}: can't be run as a Python interpreter: {error}", remedy) from error
    found = tuple(int(number) for number in answer["version"].split("."))
    if answer["environment"]["implementation_name"] != "cpython" or found < (3, 10) or answer["threaded"]:
        kind = " (free-threaded)" if answer["threaded"] else ""
        raise InputError(
            f"{python}: {answer['environment']['implementation_name']} {answer['version']}{kind}; "
            "expected an ordinary CPython >= 3.10",
            remedy,
        )
    return Interpreter(python, Path(answer["base"]), answer["version"], current_platform(), answer["environment"])


def private_venv(interpreter: Interpreter, folder: Path) -> Path:
    """Make an empty virtual environment in `folder` (must not exist); return its Python.

    Needs no ensurepip, which Debian splits off. Raises MissingToolError when the venv module itself is missing.
    """
    child = subprocess.run(
        [str(interpreter.base), "-I", "-m", "venv", "--without-pip", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode != 0:
        raise MissingToolError(
            f"{interpreter.base}: can't make a virtual environment: {(child.stderr or child.stdout).strip()[-300:]}",
            "install this Python's venv module (Debian: the package python3-venv)",
        )
    return folder / "bin" / "python"


def lay_out_python(python: Interpreter, stage: Path) -> None:
    """Write bin/python*, pyvenv.cfg and site-packages into the empty folder `stage`.

    The links lead to this machine's interpreter: the package is good for this machine only.
    """
    (stage / "bin").mkdir(parents=True)
    versioned = f"python{python.minor}"
    (stage / "bin" / versioned).symlink_to(python.base)
    for name in ("python3", "python"):
        (stage / "bin" / name).symlink_to(versioned)
    (stage / "pyvenv.cfg").write_text(
        f"home = {python.base.parent}\ninclude-system-site-packages = false\nversion = {python.version}\n"
        f"executable = {python.base}\n",
        encoding="utf-8",
    )
    site = stage / python.site_packages
    site.mkdir(parents=True)
    (site / "README.txt").write_text("Modules of this environment; the standard library is the base Python's.\n")

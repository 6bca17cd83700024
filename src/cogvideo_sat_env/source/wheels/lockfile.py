"""The wheel locks in locks/: what they are called and what they say."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.source.wheels.interpreter import Interpreter, probe
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pieces import pieces_of

PREFERRED_PYTHON = "3.11"  # that of environment.yml
REMEDY = f"make it again with: {satenv('lock --wheels')}"
_SDIST = (".tar.gz", ".zip")
_LINE = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})  # (?P<file>[^\s/]+)$"
)


@dataclass(frozen=True)
class WheelLock:
    """A wheel lock as read. `build` are the files that build the sdists among `pins`."""

    path: Path
    platform: str
    python: str  # "3.11"
    spec_hash: str
    pins: tuple[PipPin, ...]
    build: tuple[PipPin, ...]


def is_sdist(pin: PipPin) -> bool:
    """Return whether the pin is a source distribution, to be built, not a wheel."""
    return pin.file_name.endswith(_SDIST)


def spec_hash(environment: Environment) -> str:
    """Return the SHA-256 of what the environment file asks for: names and bounds, whatever their order or comments."""
    pieces = {piece.conda.name: piece.pip for piece in pieces_of(environment, {}) if piece.conda and piece.pip}
    conda = [spec for spec in environment.conda if spec.name not in pieces]  # whence a piece comes is nothing to wheels
    pip = [*environment.pip, *(pieces[spec.name] for spec in environment.conda if spec.name in pieces)]
    asked = sorted(f"conda {spec}" for spec in conda) + sorted(f"pip {spec}" for spec in pip)
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()


def lock_name(platform: str, python: str) -> str:
    """Return the file name of the wheel lock for a conda subdir and a Python, e.g. "linux-64" and "3.11"."""
    return f"wheels-{platform}-py{python.replace('.', '')}.txt"


def build_lock_path(lock: Path) -> Path:
    """Return where the build requirements of the sdists in the wheel lock `lock` stand: for all Pythons in one."""
    return lock.with_name(re.sub(r"^wheels-(.*)-py\d+", r"wheels-build-\1", lock.name))


def read_wheel_lock(path: Path) -> WheelLock:
    """Read a wheel lock and, when it holds sdists, its build lock. Raises InputError with file and line."""
    header, pins = _read(path, ("platform", "python", "spec-sha256"))
    build: tuple[PipPin, ...] = ()
    if any(is_sdist(pin) for pin in pins):
        _, build = _read(build_lock_path(path), ("platform",))
    return WheelLock(path, header["platform"], header["python"], header["spec-sha256"], pins, build)


def write_requirements(pins: Sequence[PipPin], path: Path) -> Path:
    """Write the pins as a pip requirements file that admits these files only."""
    path.write_text("".join(f"{pin.requirement()}\n" for pin in pins), encoding="utf-8")
    return path


def _read(path: Path, keys: Sequence[str]) -> tuple[dict[str, str], tuple[PipPin, ...]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a wheel lock", REMEDY) from error
    header: dict[str, str] = {}
    pins: list[PipPin] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            key, found, value = line[1:].strip().partition(": ")
            if found and key in keys:
                header[key] = value
            continue
        match = _LINE.match(line)
        if not match:
            raise InputError(
                f"{path}:{number}: {line[:80]!r}; expected `name==version --hash=sha256:<64 hex>  # file`", REMEDY
            )
        if pins and match["name"] <= pins[-1].name:
            raise InputError(f"{path}:{number}: {match['name']} is out of order or stands twice", REMEDY)
        if "+" in match["version"]:
            raise InputError(f"{path}:{number}: {match['version']} has a local part: not a file of PyPI's", REMEDY)
        pins.append(PipPin(match["name"], match["version"], match["sha256"], match["file"]))
    missing = [key for key in keys if key not in header]
    if missing or not pins:
        raise InputError(f"{path}:1: no {', '.join(missing) or 'pins'}; expected a wheel lock", REMEDY)
    return header, tuple(pins)


def choose_python(locks: Path, named: Path | None) -> tuple[Interpreter, Path]:
    """Return the interpreter that becomes the package `python`, and its wheel lock in the folder `locks`.

    The one `named`, else that of environment.yml, else the one that runs this program. Raises InputError.
    """
    preferred = shutil.which(f"python{PREFERRED_PYTHON}")
    candidates = [named] if named else [Path(name) for name in (preferred, sys.executable) if name]
    for last, candidate in enumerate(candidates, start=1 - len(candidates)):
        try:
            interpreter = probe(candidate)
            return interpreter, default_lock(locks, interpreter)
        except InputError:
            if last == 0:
                raise
    raise AssertionError("no candidate")


def default_lock(locks: Path, interpreter: Interpreter) -> Path:
    """Return the wheel lock in the folder `locks` for this platform and interpreter.

    Raises InputError, naming the Pythons that have one, when there is none.
    """
    path = locks / lock_name(current_platform(), interpreter.minor)
    if not path.is_file():
        have = sorted(found.stem for found in locks.glob(f"wheels-{current_platform()}-py*.txt"))
        raise InputError(
            f"{path}: no wheel lock for {current_platform()} with Python {interpreter.minor}; "
            f"there are: {', '.join(have) or 'none'}",
            f"run with one of those Pythons, or make it with: {satenv('lock --wheels')}",
        )
    return path

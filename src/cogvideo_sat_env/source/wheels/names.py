"""Which distribution of a package index stands for which name of environment.yml (data/pypi-names.yml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.source.wheels.versions import conda_to_specifier, specifier_to_conda
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec

WHAT = "the mapping of PyPI names to conda names"
_KEYS = {
    "names": ("pypi", "conda", "module"),
    "programs": ("conda", "pypi", "file", "command"),
    "absent": ("conda", "reason"),
}


@dataclass(frozen=True)
class Program:
    """A conda package whose program a wheel ships. `file` is a glob inside the wheel, `command` its name in bin/."""

    conda: str
    pypi: str
    file: str
    command: str


@dataclass(frozen=True)
class NotProvided:
    """A name of the environment file that no wheel provides, and what is there instead."""

    name: str
    spec: str
    reason: str


@dataclass(frozen=True)
class Names:
    """data/pypi-names.yml as typed values; PyPI names are normalised."""

    path: Path
    conda_by_pypi: dict[str, str]
    same: frozenset[str]
    programs: dict[str, Program] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def to_conda(self, pypi: str) -> str:
        """Return the conda name, as environment.yml spells it, of the distribution `pypi` (any spelling)."""
        name = canonicalize_name(pypi)
        return self.conda_by_pypi.get(name, name)

    def to_pypi(self, conda: str) -> str | None:
        """Return the normalised PyPI name behind the conda package `conda`; None when the mapping doesn't know it."""
        for pypi, name in self.conda_by_pypi.items():
            if name == conda:
                return pypi
        name = canonicalize_name(conda)
        if conda in self.programs:
            return self.programs[conda].pypi
        return str(name) if name in self.same else None


@dataclass(frozen=True)
class Wanted:
    """One name of the environment file that a package index provides."""

    pypi: str
    specifier: str  # PEP 440
    conda_spec: str  # match spec for the local channel

    def requirement(self) -> str:
        """Return the requirement as pip reads it."""
        return f"{self.pypi}{self.specifier}"


@cache
def load_names(path: Path = DATA / "pypi-names.yml") -> Names:
    """Read the mapping. Raises InputError with file and line."""
    data, lines = yamlfile.load(path, WHAT)
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: expected {WHAT}: a mapping with 'names'", "restore the file, e.g. with git")
    entries: dict[str, list[dict[str, Any]]] = {}
    for section, keys in _KEYS.items():
        entries[section] = data.get(section) or []
        for index, entry in enumerate(entries[section]):
            if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
                raise InputError(
                    f"{path}:{lines.of(section, index)}: expected the keys {', '.join(keys)}", "mend that line"
                )
    return Names(
        path,
        {str(canonicalize_name(e["pypi"])): e.get("spec") or e["conda"] for e in entries["names"]},
        frozenset(str(canonicalize_name(name)) for name in data.get("same") or []),
        {e["conda"]: Program(*(e[key] for key in _KEYS["programs"])) for e in entries["programs"]},
        {e["conda"]: e["reason"] for e in entries["absent"]},
    )


def divide(environment: Environment, names: Names) -> tuple[list[Wanted], list[NotProvided]]:
    """Split the environment file into what a package index provides and what it doesn't; Python is in neither.

    Build globs are kept in the match spec and dropped for pip, which knows none. Raises InputError with file and line
    for a name that the mapping doesn't know: asking an index for it could install an unrelated project.
    """
    wanted: list[Wanted] = []
    missing: list[NotProvided] = []
    specs: tuple[CondaSpec | PipSpec, ...] = (*environment.conda, *environment.pip)
    for spec in specs:
        if isinstance(spec, CondaSpec) and spec.name == "python":
            continue
        if isinstance(spec, CondaSpec) and spec.name in names.absent:
            missing.append(NotProvided(spec.name, str(spec), names.absent[spec.name]))
            continue
        try:
            wanted.append(_pip(spec, names) if isinstance(spec, PipSpec) else _conda(environment, spec, names))
        except ValueError as error:
            raise InputError(
                f"{environment.path}:{spec.line}: {spec}: {error}", "write the bound differently"
            ) from error
    return wanted, missing


def _pip(spec: PipSpec, names: Names) -> Wanted:
    name = str(canonicalize_name(spec.name))
    return Wanted(name, spec.specifier, f"{names.to_conda(name)} {specifier_to_conda(spec.specifier)}".strip())


def _conda(environment: Environment, spec: CondaSpec, names: Names) -> Wanted:
    pypi = names.to_pypi(spec.name)
    if pypi is None:
        raise InputError(
            f"{environment.path}:{spec.line}: {spec.name}: no known project on a package index; expected it under "
            f"'names', 'same', 'programs' or 'absent' in {names.path}",
            "add it there; look first whether PyPI's project of that name is the same one",
        )
    # a program's package has the program's version, which pip can't bound through the distribution that ships it
    specifier = "" if spec.name in names.programs else conda_to_specifier(spec.version)
    return Wanted(pypi, specifier, str(spec))

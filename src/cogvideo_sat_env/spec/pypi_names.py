"""Names that differ between PyPI and conda-forge (data/pypi-names.yml); all others are taken as equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA

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
class Names:
    """data/pypi-names.yml as typed values; PyPI names are normalised."""

    path: Path
    conda_by_pypi: dict[str, str]
    entries: tuple[dict[str, str], ...]  # those under `names`: pypi, conda, module
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
                    f"{path}:{lines.of(section, index)}: expected the keys {', '.join(keys)}", "correct that line"
                )
    return Names(
        path,
        {str(canonicalize_name(e["pypi"])): e.get("spec") or e["conda"] for e in entries["names"]},
        tuple(entries["names"]),
        frozenset(str(canonicalize_name(name)) for name in data.get("same") or []),
        {e["conda"]: Program(*(e[key] for key in _KEYS["programs"])) for e in entries["programs"]},
        {e["conda"]: e["reason"] for e in entries["absent"]},
    )


def conda_lock_lookup() -> dict[str, dict[str, str]]:
    """Return the mapping as conda-lock's --pypi_to_conda_lookup_file wants it, by PyPI name."""
    return {
        entry["pypi"]: {"conda_name": entry["conda"], "pypi_name": entry["pypi"], "import_name": entry["module"]}
        for entry in load_names().entries
    }


def conda_to_pypi(name: str) -> str:
    """Return the normalised PyPI name of the distribution in the conda package `name`."""
    for entry in load_names().entries:
        if entry["conda"] == name:
            return entry["pypi"]
    return canonicalize_name(name)

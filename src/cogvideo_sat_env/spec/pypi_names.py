"""Names that differ between PyPI and conda-forge (data/pypi-names.yml); all others are taken as equal."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA

FILE = DATA / "pypi-names.yml"


@cache
def _entries(path: Path = FILE) -> tuple[dict[str, str], ...]:
    data, lines = yamlfile.load(path, "the mapping of PyPI names to conda names")
    entries = data.get("names") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path}:1: expected a list under 'names'", "restore the file")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"pypi", "conda", "module"} <= set(entry):
            raise InputError(
                f"{path}:{lines.of('names', index)}: expected the keys pypi, conda, module", "mend that line"
            )
    return tuple(entries)


def conda_lock_lookup() -> dict[str, dict[str, str]]:
    """Return the mapping as conda-lock's --pypi_to_conda_lookup_file wants it, by PyPI name."""
    return {
        entry["pypi"]: {"conda_name": entry["conda"], "pypi_name": entry["pypi"], "import_name": entry["module"]}
        for entry in _entries()
    }


def conda_to_pypi(name: str) -> str:
    """Return the normalised PyPI name of the distribution in the conda package `name`."""
    for entry in _entries():
        if entry["conda"] == name:
            return entry["pypi"]
    return canonicalize_name(name)

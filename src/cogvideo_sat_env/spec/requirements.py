"""The floors (data/requirements.yml) as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import InvalidVersion, Version

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA

WHAT = "the list of requirements"
_KEYS = {"name", "conda", "module", "floor", "source", "training", "role"}


@dataclass(frozen=True)
class Requirement:
    """One requirement of SAT or of CogVideo's sat/; `floor` is the lowest tested version, None for any."""

    name: str
    module: str
    role: str
    source: str
    conda: str | None = None
    floor: str | None = None
    training: bool = False
    line: int = 0


@cache  # asked for by every placement of a piece
def read_requirements(path: Path = DATA / "requirements.yml") -> tuple[Requirement, ...]:
    """Read the requirements. Raises InputError with file and line."""
    data, lines = yamlfile.load_under(path, WHAT, "requirements")
    found = []
    for index, item in enumerate(data["requirements"]):
        where = f"{path}:{lines.of('requirements', index)}"
        if not isinstance(item, dict) or not {"name", "module", "source", "role"} <= set(item) <= _KEYS:
            raise InputError(
                f"{where}: expected the keys {', '.join(sorted(_KEYS))}; found {item!r}", "correct that line"
            )
        floor = None if item.get("floor") is None else str(item["floor"])
        try:
            Version(floor or "0")
        except InvalidVersion as error:
            raise InputError(f"{where}: floor of {item['name']}: {error}", "write a version") from error
        found.append(Requirement(**{**item, "floor": floor}, line=lines.of("requirements", index)))
    return tuple(found)

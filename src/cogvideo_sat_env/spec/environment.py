"""environment.yml as typed values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.spec.placement import Placements, read_placements

WHAT = "a conda environment file"
# name, version, build: the positional form that conda, mamba and conda-lock all read in an environment file
_CONDA_SPEC = re.compile(
    r"^(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:\s+(?P<version>\S+)(?:\s+(?P<build>[A-Za-z0-9_.*][^\s,]*))?)?$"
)
_VERSION_CLAUSE = re.compile(r"^(?:[<>=!~]=?|==)?\s*[0-9*][0-9A-Za-z.*+!_-]*$")
_TOP_LEVEL = {"name", "channels", "dependencies", "variables", "prefix", "platforms"}


@dataclass(frozen=True)
class CondaSpec:
    """One match spec of the dependency list: name, version clauses ("" for any), build glob ("" for any)."""

    name: str
    version: str = ""
    build: str = ""
    line: int = 0
    comment: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.name, self.version or ("*" if self.build else ""), self.build) if part)

    @property
    def clauses(self) -> tuple[str, ...]:
        """The version clauses and the build glob, one bound each."""
        return tuple(part for part in [*self.version.split(","), self.build] if part and part != "*")


@dataclass(frozen=True)
class PipSpec:
    """One requirement of the `pip:` subsection: distribution name and version specifier ("" for any)."""

    name: str
    specifier: str = ""
    line: int = 0
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.specifier}".strip()

    @property
    def clauses(self) -> tuple[str, ...]:
        """The version clauses, one bound each."""
        return tuple(part.strip() for part in self.specifier.split(",") if part.strip())


@dataclass(frozen=True)
class Environment:
    """An environment file: what is wanted, by people."""

    path: Path
    name: str
    channels: tuple[str, ...]
    conda: tuple[CondaSpec, ...]
    pip: tuple[PipSpec, ...]
    variables: dict[str, str]
    placements: Placements = field(default_factory=dict)  # of the pieces in the variants that are derived from it

    def conda_spec(self, name: str) -> CondaSpec | None:
        """Return the match spec for the conda package `name`, or None."""
        return next((spec for spec in self.conda if spec.name == name), None)

    def pip_spec(self, name: str) -> PipSpec | None:
        """Return the requirement for the distribution `name` (any spelling), or None."""
        wanted = canonicalize_name(name)
        return next((spec for spec in self.pip if canonicalize_name(spec.name) == wanted), None)


def read_environment(path: Path) -> Environment:
    """Read an environment file as conda, mamba and conda-lock understand it.

    Raises InputError, with file and line, for anything that one of them would refuse or silently ignore.
    """
    data, lines = yamlfile.load(path, WHAT)
    if not isinstance(data, dict):
        raise InputError(f"{path}:1: expected {WHAT}: a mapping with channels and dependencies", "see the README")
    for key in data:
        if key not in _TOP_LEVEL:
            raise InputError(
                f"{path}:{lines.of(key)}: unknown key '{key}'; expected one of {', '.join(sorted(_TOP_LEVEL))}",
                "remove it: conda and mamba would ignore it",
            )
    channels = data.get("channels")
    if not isinstance(channels, list) or not channels or not all(isinstance(c, str) for c in channels):
        raise InputError(f"{path}:{lines.of('channels')}: 'channels' must be a list of channel names or URLs", None)
    if "nodefaults" in channels:
        raise InputError(
            f"{path}:{lines.of('channels', channels.index('nodefaults'))}: 'nodefaults' is taken for the name of a "
            "channel by current conda",
            "remove that line",
        )
    dependencies = data.get("dependencies")
    if not isinstance(dependencies, list) or not dependencies:
        raise InputError(f"{path}:{lines.of('dependencies')}: 'dependencies' must be a list of match specs", None)
    variables = data.get("variables") or {}
    unquoted = (
        [key for key, value in variables.items() if not isinstance(value, str)] if isinstance(variables, dict) else []
    )
    if not isinstance(variables, dict) or unquoted:
        line = lines.of("variables", *unquoted[:1])
        raise InputError(f"{path}:{line}: 'variables' must map names to strings", "put the value in quotes")
    comments = _comments(path)
    conda: list[CondaSpec] = []
    pip: list[PipSpec] = []
    for index, item in enumerate(dependencies):
        line = lines.of("dependencies", index)
        if isinstance(item, str):
            conda.append(_conda_spec(path, line, item, comments.get(line, "")))
        elif isinstance(item, dict) and list(item) == ["pip"] and isinstance(item["pip"], list):
            for number, requirement in enumerate(item["pip"]):
                line = lines.of("dependencies", index, "pip", number)
                pip.append(_pip_spec(path, line, requirement, comments.get(line, "")))
        else:
            raise InputError(f"{path}:{line}: {item!r} is neither a match spec nor a `pip:` list", "correct that line")
    _refuse_twice(path, conda)
    _refuse_twice(path, pip)
    placements = read_placements(path.parent)
    return Environment(
        path, str(data.get("name", "")), tuple(channels), tuple(conda), tuple(pip), dict(variables), placements
    )


def _comments(path: Path) -> dict[int, str]:
    """Comments behind a value, by line: they are the reasons, and generated files carry them on."""
    found = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        body, mark, comment = text.partition("  # ")
        if mark and body.strip():
            found[number] = comment.strip()
    return found


def _conda_spec(path: Path, line: int, text: str, comment: str) -> CondaSpec:
    match = _CONDA_SPEC.match(text.strip())
    if match:
        version = match["version"] or ""
        if version in ("", "*") or all(_VERSION_CLAUSE.match(clause) for clause in version.split(",")):
            return CondaSpec(match["name"], version, match["build"] or "", line, comment)
    raise InputError(
        f"{path}:{line}: {text!r} is not a match spec; expected `name`, `name >=1.2,<2` or `name >=1.2 build*`",
        "correct that line",
    )


def _pip_spec(path: Path, line: int, text: object, comment: str) -> PipSpec:
    try:
        requirement = Requirement(str(text))
    except InvalidRequirement as error:
        raise InputError(f"{path}:{line}: {text!r} is not a pip requirement: {error}", "correct that line") from error
    if requirement.url or requirement.extras or requirement.marker:
        raise InputError(
            f"{path}:{line}: {text!r}: only names and versions can be locked with a hash here", "write name and version"
        )
    written = str(text).strip()[len(requirement.name) :].replace(" ", "")
    return PipSpec(requirement.name, written, line, comment)


def _refuse_twice(path: Path, specs: list[CondaSpec] | list[PipSpec]) -> None:
    seen: dict[str, int] = {}
    for spec in specs:
        key = canonicalize_name(spec.name) if isinstance(spec, PipSpec) else spec.name
        if key in seen:
            raise InputError(
                f"{path}:{spec.line}: '{spec.name}' stands twice (first on line {seen[key]})", "keep one of the two"
            )
        seen[key] = spec.line

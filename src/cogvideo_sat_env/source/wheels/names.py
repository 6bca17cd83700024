"""Which distribution of a package index stands for which name of environment.yml (data/pypi-names.yml)."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.source.wheels.versions import conda_to_specifier, specifier_to_conda
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec
from cogvideo_sat_env.spec.pypi_names import Names


@dataclass(frozen=True)
class NotProvided:
    """A name of the environment file that no wheel provides, and what is there instead."""

    name: str
    spec: str
    reason: str


@dataclass(frozen=True)
class WheelSpec:
    """One name of the environment file that a package index provides."""

    pypi: str
    specifier: str  # PEP 440
    conda_spec: str  # match spec for the local channel

    def requirement(self) -> str:
        """Return the requirement as pip reads it."""
        return f"{self.pypi}{self.specifier}"


def divide(environment: Environment, names: Names) -> tuple[list[WheelSpec], list[NotProvided]]:
    """Split the environment file into what a package index provides and what it doesn't; Python is in neither.

    Build globs are kept in the match spec and dropped for pip, which knows none. Raises InputError with file and line
    for a name that the mapping doesn't know: asking an index for it could install an unrelated project.
    """
    wanted: list[WheelSpec] = []
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


def _pip(spec: PipSpec, names: Names) -> WheelSpec:
    name = str(canonicalize_name(spec.name))
    return WheelSpec(name, spec.specifier, f"{names.to_conda(name)} {specifier_to_conda(spec.specifier)}".strip())


def _conda(environment: Environment, spec: CondaSpec, names: Names) -> WheelSpec:
    pypi = names.to_pypi(spec.name)
    if pypi is None:
        raise InputError(
            f"{environment.path}:{spec.line}: {spec.name}: no known project on a package index; expected it under "
            f"'names', 'same', 'programs' or 'absent' in {names.path}",
            "add it there; look first whether PyPI's project of that name is the same one",
        )
    # a program's package has the program's version, which pip can't bound through the distribution that ships it
    specifier = "" if spec.name in names.programs else conda_to_specifier(spec.version)
    return WheelSpec(pypi, specifier, str(spec))

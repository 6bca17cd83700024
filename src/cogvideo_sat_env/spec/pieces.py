"""Pieces: what comes from conda in a variant where its channels have it, and from pip where they don't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.requirements import Requirement as PipRequirement
from packaging.utils import canonicalize_name

from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.requirements import read_requirements


@dataclass(frozen=True)
class Piece:
    """One of them, as it is asked for from each side; None where its bound can't be expressed there."""

    name: str
    pip: PipSpec | None
    conda: CondaSpec | None


def pieces_of(environment: Environment, changes: Mapping[str, Mapping[str, str]]) -> tuple[Piece, ...]:
    """Return the pieces of a variant; `changes` are its changes to the pip part (`pip` in variants.yml).

    They are the requirements without a conda name, and what the variant takes from pip in place of a conda package.
    Another distribution that stands in for a piece in pip (decord2) leaves what is asked of conda as it is.
    """
    by_name = {canonicalize_name(name): change for name, change in changes.items()}
    found = []
    for requirement in read_requirements():
        own = None if requirement.conda else _written(environment, requirement.name)
        change = by_name.get(canonicalize_name(requirement.name), {})
        if own is not None and "drop" not in change:
            found.append(Piece(own.name, changed(change) if "spec" in change else own.pip, own.conda))
    known = {canonicalize_name(piece.name) for piece in found}
    for name, change in changes.items():
        if "spec" in change and canonicalize_name(name) not in known:
            spec = changed(change)
            found.append(Piece(name, spec, environment.conda_spec(load_names().to_conda(name)) or as_conda(spec)))
    return tuple(found)


def _written(environment: Environment, name: str) -> Piece | None:
    pip, conda = environment.pip_spec(name), environment.conda_spec(load_names().to_conda(name))
    if pip is not None:
        return Piece(name, pip, as_conda(pip))
    return Piece(name, as_pip(conda, name), conda) if conda is not None else None


def changed(change: Mapping[str, str]) -> PipSpec:
    """Return the requirement that a variant asks for."""
    requirement = PipRequirement(change["spec"])
    return PipSpec(requirement.name, change["spec"][len(requirement.name) :].replace(" ", ""), comment=change["reason"])


def as_conda(spec: PipSpec) -> CondaSpec | None:
    """Return the match spec that means the same; None where there is none."""
    if "===" in spec.specifier:
        return None
    return CondaSpec(load_names().to_conda(spec.name), spec.specifier, comment=spec.comment, line=spec.line)


def as_pip(spec: CondaSpec, name: str) -> PipSpec | None:
    """Return the requirement for the distribution `name` that means the same; None where there is none."""
    if spec.build:
        return None
    clauses = []
    for clause in spec.clauses:
        if clause[0].isdigit():
            clause = f"=={clause}"
        elif clause[0] == "=" and clause[1] != "=":
            clause = f"={clause}" + ("" if clause.endswith(".*") else ".*")
        clauses.append(clause)
    return PipSpec(name, ",".join(clauses), comment=spec.comment, line=spec.line)

"""Versions against the tested floors and the bounds of the breakage ledger."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.lock.verify_lock import record_of
from cogvideo_sat_env.report.graph import environment_of
from cogvideo_sat_env.report.inventory import Inventory, Package
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import CondaSpec, PipSpec
from cogvideo_sat_env.spec.requirements import read_requirements

FLOOR = "floor"


@dataclass(frozen=True)
class Bound:
    """A floor (id FLOOR) or a bound of the ledger on a package, by the names that it has with conda and pip."""

    id: str
    keys: frozenset[str]
    text: str  # `<2.11`, or the glob of a build: `cuda*`
    why: str


@dataclass(frozen=True)
class Row:
    """One requirement in an inventory: its package (None: not in it), floor, bounds, and which of them don't hold."""

    name: str
    role: str
    package: Package | None
    floor: str | None
    bounds: tuple[Bound, ...]
    broken: tuple[Bound, ...]


@cache
def all_bounds() -> tuple[Bound, ...]:
    """Return every floor and every bound that has an entry. Raises InputError when one of the files can't be read."""
    found = [
        Bound(FLOOR, _keys(r.name, r.conda), f">={r.floor}", f"the lowest version that was tested: {r.role}")
        for r in read_requirements()
        if r.floor
    ]
    found += [Bound(e.id, _keys(e.package, e.pypi_name), e.bound, e.breaks) for e in read_ledger().entries]
    return tuple(found)


def _keys(*names: str | None) -> frozenset[str]:
    return frozenset(str(canonicalize_name(name)) for name in names if name)


def holds(package: Package, bound: Bound) -> bool | None:
    """Tell whether the package is within the bound; None where that means nothing (a build glob, and pip's file)."""
    clause = bool(re.match(r"[<>=!~\d]", bound.text))
    if package.kind == "pip":
        try:
            return Version(package.version) in SpecifierSet(bound.text, prereleases=True) if clause else None
        except (InvalidVersion, InvalidSpecifier):
            return None
    from rattler import MatchSpec  # takes a moment, which the commands without bounds do without
    from rattler.exceptions import InvalidVersionError

    try:
        record = record_of(package.name, package.version, package.build, package.subdir)
        return MatchSpec(f"{package.name} {'' if clause else '* '}{bound.text}").matches(record)
    except (InvalidVersionError, ValueError) as error:  # ValueError: of the build
        raise InputError(f"{package.name}: {error}; expected a version and a build of conda's", None) from error


def judge(inventory: Inventory) -> list[Row]:
    """Return a row for each requirement and each other bounded package, in the order of the requirements.

    A bound that the environment file of the inventory's variant doesn't have (a CPU variant's PyTorch needs no CUDA
    build) isn't judged.
    """
    environment = environment_of(inventory)
    asked: list[CondaSpec | PipSpec] = [*environment.conda, *environment.pip] if environment else []
    clauses = {str(canonicalize_name(spec.name)): spec.clauses for spec in asked}
    rows: list[Row] = []
    seen: frozenset[str] = frozenset()
    named = [(r.conda or r.name, r.role, r.floor, _keys(r.name, r.conda)) for r in read_requirements()]
    named += [(e.package, "", None, _keys(e.package, e.pypi_name)) for e in read_ledger().entries]
    for name, role, floor, keys in named:
        if not keys & seen:
            seen |= keys
            package = next((p for p in inventory.packages if p.key in keys), None)
            there = next((clauses[key] for key in keys if key in clauses), None)
            bounds = tuple(
                b for b in all_bounds() if b.keys & keys and (b.id == FLOOR or there is None or b.text in there)
            )
            broken = tuple(bound for bound in bounds if package and holds(package, bound) is False)
            rows.append(Row(name, role, package, floor, bounds, broken))
    return rows

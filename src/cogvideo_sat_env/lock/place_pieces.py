"""Which pieces the channels have: each is asked for there first, and stays in the pip part where it doesn't fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.errors import SolveError
from cogvideo_sat_env.lock import solve
from cogvideo_sat_env.lock.frozen import asked_channels
from cogvideo_sat_env.lock.make import Solver, iso
from cogvideo_sat_env.lock.verify_lock import record_of
from cogvideo_sat_env.spec.environment import CondaSpec, Environment
from cogvideo_sat_env.spec.pieces import Piece, pieces_of
from cogvideo_sat_env.spec.placement import Placement
from cogvideo_sat_env.spec.variants import Variant, derive

if TYPE_CHECKING:
    from rattler import Version

_PYTHON = re.compile(r"^python_abi (3\.\d+)|^python (3\.\d+)\.\*|^python >=(3\.\d+),<")


def place(environment: Environment, variant: Variant, solver: Solver, mode: str) -> dict[str, Placement]:
    """Return whence each piece of the variant comes, by name, with the reason for those from pip.

    In the mode "auto" a piece comes from conda where it solves together with everything else and lowers nothing that
    the spec asks for; "conda" refuses those that don't solve, "pip" asks no channel.
    Raises SolveError, SourceError.
    """
    pieces = pieces_of(environment, variant.pip)
    if mode == "pip" or not pieces:
        return {piece.name: Placement("pip", "locked with --pieces pip") for piece in pieces}
    own = derive(environment, variant, environment.path)
    names = {piece.conda.name for piece in pieces if piece.conda}
    rest = [spec for spec in own.conda if spec.name not in names]
    with asked_channels(own.channels, solver.frozen, solver.asked) as channels:
        solve.require_answers(list(channels))
        trial = _Trial(tuple(channels), tuple(rest), variant, solver)
        placements = _place(pieces, trial, mode)
    lacking = {name: placement.why for name, placement in placements.items() if placement.origin == "pip"}
    if mode == "conda" and lacking:
        words = "; ".join(f"{name}: {why}" for name, why in lacking.items())
        raise SolveError(
            f"{variant.id}: not everything comes from conda: {words}",
            "name a channel that has it in environment.yml, or lock without --pieces conda",
        )
    return placements


@dataclass(frozen=True)
class _Trial:
    """Solving the conda part of one variant with pieces in it."""

    channels: tuple[str, ...]
    rest: tuple[CondaSpec, ...]
    variant: Variant
    solver: Solver

    def records(self, names: Sequence[str]) -> dict[str, list[dict]]:
        """Return by name what the first channel that has it holds, as channels have strict priority."""
        found: dict[str, list[dict]] = {}
        subdirs = [self.variant.platform, "noarch"]
        records = solve.named(self.channels, names, subdirs, until=self.solver.until)
        for channel in self.channels:
            here: dict[str, list[dict]] = {}
            base = f"{Address(channel).reveal().rstrip('/')}/"
            for record in records:
                if record["url"].startswith(base):
                    here.setdefault(record["name"], []).append(record)
            found = {**here, **found}
        return found

    def why_not(self, specs: Sequence[str], mode: str) -> dict[str, str]:
        """Return why each of these doesn't fit with everything else; "" where it does."""
        if not specs:
            return {}
        guard = [spec.name for spec in self.rest] if mode == "auto" else []
        rest = [str(spec) for spec in self.rest]
        return solve.fits(
            self.channels, rest, specs, self.variant.platform, self.variant.virtual_packages, guard=guard,
            until=iso(self.solver.until),
        )  # fmt: skip


def _place(pieces: Sequence[Piece], trial: _Trial, mode: str) -> dict[str, Placement]:
    records = trial.records([piece.conda.name for piece in pieces if piece.conda])
    why: dict[str, str] = {}
    able: dict[str, str] = {}  # spec and versions by name
    for piece in pieces:
        here = records.get(piece.conda.name, []) if piece.conda else []
        why[piece.name] = _unfit(piece, here, trial)
        if not why[piece.name]:
            able[piece.name] = str(piece.conda)
    answers = trial.why_not(list(able.values()), mode)
    for piece in pieces:
        reason = answers.get(able.get(piece.name, ""), "")
        if reason and piece.conda:
            why[piece.name] = f"{_versions(_fitting(piece, records[piece.conda.name]))} {reason}"
    return {name: Placement("pip", reason) if reason else Placement("conda") for name, reason in why.items()}


def _unfit(piece: Piece, records: Sequence[dict], trial: _Trial) -> str:
    """Return why none of these records can be what is asked for, without solving; "" where one may."""
    if piece.conda is None:
        return "its bound can't be expressed for conda"
    if not records:
        return f"the channels have no {piece.conda.name}"
    fitting = _fitting(piece, records)
    if not fitting:
        return f"the channels have {_versions(records)}, which isn't {piece.conda.version}"
    wanted = next((spec.version for spec in trial.rest if spec.name == "python"), "")
    python = ".".join(re.findall(r"\d+", wanted)[:2])
    pythons = [{_python(dependency) for dependency in record.get("depends", ())} - {""} for record in fitting]
    if python and all(found and python not in found for found in pythons):
        others = sorted(set[str]().union(*pythons), key=_version)
        return f"the channels have {_versions(fitting)} for Python {', '.join(others)} only"
    return ""


def _fitting(piece: Piece, records: Sequence[dict]) -> list[dict]:
    from rattler import MatchSpec

    spec = MatchSpec(str(piece.conda))
    return [r for r in records if spec.matches(record_of(r["name"], r["version"], r["build"], r["subdir"]))]


def _python(dependency: str) -> str:
    match = _PYTHON.match(dependency)
    return next(filter(None, match.groups()), "") if match else ""


def _versions(records: Sequence[dict]) -> str:
    found = sorted({record["version"] for record in records}, key=_version)
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _version(text: str) -> Version:
    from rattler import Version

    return Version(text)

"""Which pieces the channels have: each is asked for there first, and stays in the pip part where it doesn't fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
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
    names = [piece.conda.name for piece in pieces if piece.conda]
    rest = [spec for spec in own.conda if spec.name not in names]
    with asked_channels(own.channels, solver.frozen, solver.asked) as asked:
        channels = list(asked)
        solve.require_answers(channels)
        records = _records(channels, names, variant.platform, solver.until)
        why = {piece.name: _unfit(piece, records, rest) for piece in pieces}
        able = {piece.name: piece.conda for piece in pieces if piece.conda and not why[piece.name]}
        if able:
            answers = solve.fits(
                channels, [str(spec) for spec in rest], [str(spec) for spec in able.values()],
                variant.platform, variant.virtual_packages,
                guard=[spec.name for spec in rest] if mode == "auto" else [], until=iso(solver.until),
            )  # fmt: skip
    for name, spec in able.items():
        if answers[str(spec)]:
            why[name] = f"{_versions(_fitting(spec, records))} {answers[str(spec)]}"
    lacking = "; ".join(f"{name}: {reason}" for name, reason in why.items() if reason)
    if mode == "conda" and lacking:
        raise SolveError(
            f"{variant.id}: not everything comes from conda: {lacking}",
            "name a channel that has it in environment.yml, or lock without --pieces conda",
        )
    return {name: Placement("pip", reason) if reason else Placement("conda") for name, reason in why.items()}


def _records(
    channels: Sequence[str], names: Sequence[str], platform: str, until: datetime | None
) -> dict[str, list[dict]]:
    """Return by name what the first channel that has it holds, as channels have strict priority."""
    found: dict[str, list[dict]] = {}
    records = solve.named(channels, names, [platform, "noarch"], until=until)
    for channel in channels:
        here: dict[str, list[dict]] = {}
        base = f"{Address(channel).reveal().rstrip('/')}/"
        for record in records:
            if record["url"].startswith(base):
                here.setdefault(record["name"], []).append(record)
        found = {**here, **found}
    return found


def _unfit(piece: Piece, records: Mapping[str, list[dict]], rest: Sequence[CondaSpec]) -> str:
    """Return why none of these records can be what is asked for, without solving; "" where one may."""
    if piece.conda is None:
        return "its bound can't be expressed for conda"
    if piece.conda.name not in records:
        return f"the channels have no {piece.conda.name}"
    fitting = _fitting(piece.conda, records)
    if not fitting:
        return f"the channels have {_versions(records[piece.conda.name])}, which isn't {piece.conda.version}"
    wanted = next((spec.version for spec in rest if spec.name == "python"), "")
    python = ".".join(re.findall(r"\d+", wanted)[:2])
    pythons = [{_python(dependency) for dependency in record.get("depends", ())} - {""} for record in fitting]
    if python and all(found and python not in found for found in pythons):
        others = sorted(set[str]().union(*pythons), key=_version)
        return f"the channels have {_versions(fitting)} for Python {', '.join(others)} only"
    return ""


def _fitting(wanted: CondaSpec, records: Mapping[str, list[dict]]) -> list[dict]:
    from rattler import MatchSpec

    spec, here = MatchSpec(str(wanted)), records[wanted.name]
    return [r for r in here if spec.matches(record_of(r["name"], r["version"], r["build"], r["subdir"]))]


def _python(dependency: str) -> str:
    match = _PYTHON.match(dependency)
    return next(filter(None, match.groups()), "") if match else ""


def _versions(records: Sequence[dict]) -> str:
    found = sorted({record["version"] for record in records}, key=_version)
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _version(text: str) -> Version:
    from rattler import Version

    return Version(text)

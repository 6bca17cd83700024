"""Remedies from the breakage ledger: a failed check's own words are searched for the ledger's exact errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cogvideo_sat_env.spec.breakage import Entry, Ledger


@dataclass(frozen=True)
class Advice:
    """What the ledger says about a failure: the entry's id, what breaks, what to type."""

    id: str
    breaks: str
    remedy: str


def advise(ledger: Ledger, check: str, output: str, named: Iterable[str] = ()) -> Advice | None:
    """Return the ledger's advice on a failure of `check`, or None.

    An entry fits when the probe named it, or when it lists this check as a proof and its exact error is in `output`
    (white space aside).
    """
    wanted = set(named)
    text = _squeeze(output)
    best: Entry | None = None
    for entry in (*ledger.entries, *ledger.variables):
        if entry.id in wanted:
            return _advice(entry)
        if best is None and check in entry.proof.checks and _squeeze(entry.error) in text:
            best = entry
    return _advice(best) if best else None


def install(
    requirements: Iterable[Mapping[str, Any]], output: str, conda: bool, bounds: Iterable[Mapping[str, Any]] = ()
) -> str | None:
    """Return the command that installs the requirement whose module `output` says is missing, or None.

    `bounds` are those of the ledger (name and bound as pip knows them): the newest may be one that breaks.
    `conda`: the prefix is a conda environment; in a plain venv, and for what no channel has, pip does it.
    """
    missing = {name.partition(".")[0] for name in re.findall(r"No module named '([\w.]+)'", output)}
    for item in requirements:
        if item["module"] in missing:
            clauses = [f">={item['floor']}"] if item.get("floor") else []
            clauses += [bound["bound"] for bound in bounds if bound["name"] == item["name"]]
            wanted = ",".join(clauses)
            if conda and item.get("conda"):
                return f"mamba install '{item['conda']}{wanted}'"
            return f"pip install --no-deps '{item['name']}{wanted}'"
    return None


def _advice(entry: Entry) -> Advice:
    return Advice(entry.id, " ".join(entry.breaks.split()), entry.remedy)


def _squeeze(text: str) -> str:
    return " ".join(text.split())

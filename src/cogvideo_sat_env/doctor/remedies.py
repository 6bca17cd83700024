"""Remedies by cause and by source: the ledger's for its exact errors, and what fits how the environment was made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cogvideo_sat_env.spec.breakage import Ledger, LedgerEntry


def advise(ledger: Ledger, check: str, output: str, named: Iterable[str] = ()) -> LedgerEntry | None:
    """Return the ledger's entry that fits a failure of `check`, or None.

    An entry fits when the probe named it, or when it lists this check as a proof and its exact error is in `output`
    (white space aside).
    """
    wanted = set(named)
    text = _squeeze(output)
    best: LedgerEntry | None = None
    for entry in (*ledger.entries, *ledger.variables):
        if entry.id in wanted:
            return entry
        if best is None and check in entry.proof.checks and _squeeze(entry.error) in text:
            best = entry
    return best


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


def fit(remedy: str, restore: str | None, conda: bool, requirements: Iterable[Mapping[str, Any]]) -> str:
    """Return a remedy that installs packages, as it can be typed in this environment.

    `restore`: the command that brings back what the lock says, in an environment that has a receipt: whatever its
    source, and where mamba may not be there. Else mamba or conda install in a conda environment, and pip in a venv.
    What a remedy says beside installing (unset, pip uninstall) stays.
    """
    parts = remedy.split("; ")
    if not any(map(_installs, parts)):
        return remedy
    if restore:
        kept = [part for part in parts if not _installs(part)]
        return "; ".join([*kept, restore])
    return remedy if conda else "; ".join(_with_pip(part, requirements) for part in parts)


def _installs(part: str) -> bool:
    return re.match(r"(mamba|conda|pip) install |conda env config vars set ", part) is not None


def _with_pip(part: str, requirements: Iterable[Mapping[str, Any]]) -> str:
    """Return `mamba install` with conda's names as `pip install` with PyPI's; what isn't on PyPI is left out."""
    if not part.startswith(("mamba install ", "conda install ")):
        return part
    names = {item["conda"]: item["name"] for item in requirements if item.get("conda")}
    wanted = []
    for spec in re.findall(r"'([^']+)'|([\w.-]+)", part.split(" install ", 1)[1]):
        found = re.match(r"([\w.-]+)(.*)", spec[0] or spec[1])
        if found and found[1] in names:
            bound = f"={found[2]}.*" if re.fullmatch(r"=[\d.]+", found[2]) else found[2]
            wanted.append(f"'{names[found[1]]}{bound}'")
    return f"pip install {' '.join(wanted)}" if wanted else part


def _squeeze(text: str) -> str:
    return " ".join(text.split())

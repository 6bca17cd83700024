"""The breakage ledger (data/breakage.yml) as typed values: no bound without a reason and a proof."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA

WHAT = "the breakage ledger"


@dataclass(frozen=True)
class Proof:
    """What fails without the bound: node ids of tests, ids of doctor checks."""

    tests: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LedgerEntry:
    """One bound of environment.yml beyond the floors (or one variable), and why it is there."""

    id: str
    package: str
    bound: str
    breaks: str
    error: str
    evidence: dict[str, str]
    proof: Proof
    remedy: str
    pypi_name: str | None = None
    pypi_bound: str | None = None
    line: int = 0


@dataclass(frozen=True)
class Ledger:
    """All entries: bounds by package, variables, and the patches that recipe/ applies (`bound`: the file's name)."""

    path: Path
    entries: tuple[LedgerEntry, ...]
    variables: tuple[LedgerEntry, ...]
    patches: tuple[LedgerEntry, ...] = ()

    @property
    def all(self) -> tuple[LedgerEntry, ...]:
        """Every entry of every kind."""
        return (*self.entries, *self.variables, *self.patches)


def read_ledger(path: Path = DATA / "breakage.yml") -> Ledger:
    """Read the ledger. Raises InputError, with file and line, for an entry that lacks evidence or proof."""
    data, lines = yamlfile.load_under(path, WHAT, "entries")
    kinds = {"entries": ("package", "bound"), "variables": ("variable", "value"), "patches": ("package", "patch")}
    found: list[tuple[LedgerEntry, ...]] = []
    for kind, keys in kinds.items():
        items = data.get(kind) or []
        if not isinstance(items, list):
            raise InputError(f"{path}:{lines.of(kind)}: '{kind}' must be a list of entries", "correct that line")
        found.append(tuple(_entry(path, lines.of(kind, i), item, keys) for i, item in enumerate(items)))
    ledger = Ledger(path, *found)
    seen: dict[str, int] = {}
    for entry in ledger.all:
        if entry.id in seen:
            raise InputError(
                f"{path}:{entry.line}: id '{entry.id}' stands twice (first on line {seen[entry.id]})", "rename one"
            )
        seen[entry.id] = entry.line
    return ledger


def _entry(path: Path, line: int, item: object, keys: tuple[str, str]) -> LedgerEntry:
    where = f"{path}:{line}"
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected a ledger entry with the keys id, {keys[0]}, {keys[1]}, …", None)
    for key in ("id", *keys, "breaks", "error", "remedy"):
        if not isinstance(item.get(key), str) or not item[key].strip():
            raise InputError(f"{where}: entry {item.get('id', '?')!r} lacks '{key}' (a text)", "correct that entry")
    evidence, proof = item.get("evidence"), item.get("proof")
    if not isinstance(evidence, dict) or not (evidence.get("measured") or evidence.get("upstream")):
        raise InputError(f"{where}: entry {item['id']!r} has no evidence; expected 'measured' or 'upstream'", None)
    if not isinstance(proof, dict) or not (proof.get("tests") or proof.get("checks")):
        raise InputError(f"{where}: entry {item['id']!r} has no proof; expected 'tests' or 'checks'", None)
    for key in ("tests", "checks"):
        names = proof.get(key) or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{where}: entry {item['id']!r}: '{key}' must be a list of names", "correct that entry")
    pypi = item.get("pypi") or {}
    if not isinstance(pypi, dict) or not all(isinstance(pypi.get(k, ""), str) for k in ("name", "bound")):
        raise InputError(f"{where}: entry {item['id']!r}: 'pypi' must have a name and a bound", "correct that entry")
    return LedgerEntry(
        item["id"],
        item[keys[0]],
        item[keys[1]],
        " ".join(item["breaks"].split()),
        item["error"],
        {key: str(value).strip() for key, value in evidence.items()},
        Proof(tuple(proof.get("tests") or ()), tuple(proof.get("checks") or ())),
        item["remedy"],
        pypi.get("name"),
        pypi.get("bound"),
        line,
    )

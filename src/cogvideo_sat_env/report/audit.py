"""Known vulnerabilities of what is in a lock or an environment, by advisories that the user has, without a network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.checks import _osv
from cogvideo_sat_env.install.added import distributions
from cogvideo_sat_env.report.graph import spec_name
from cogvideo_sat_env.report.inventory import Inventory, Package
from cogvideo_sat_env.spec.pypi_names import load_names


@dataclass
class Audit:
    """What was found. `packages` counts Python distributions, `others` are conda packages that are none."""

    source: str
    packages: int = 0
    others: list[str] = field(default_factory=list)
    advisories: int = 0
    hits: dict[_osv.AdvisoryHit, list[str]] = field(default_factory=dict)  # and the platforms that it is on
    unjudged: dict[str, list[str]] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)

    @property
    def exit_code(self) -> int:
        """0 where nothing applies, else 1."""
        return 1 if self.hits else 0

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "source": self.source, "packages": self.packages, "not_python": self.others, "advisories": self.advisories,
            "hits": [{**asdict(hit), "platforms": where} for hit, where in self.hits.items()],
            "not_judged": self.unjudged, "accepted": sorted(self.accepted), "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people: each advisory that applies, then the sum."""
        lines = []
        for hit, where in self.hits.items():
            known = f" ({', '.join(hit.aliases)})" if hit.aliases else ""
            fixed = f"fixed in {', '.join(hit.fixed)}" if hit.fixed else "no fixed version"
            platforms = f" on {', '.join(where)}" if where else ""
            lines.append(
                f"{hit.name} {hit.version}{platforms}: {hit.id}{known}: {hit.summary or 'no summary'}; {fixed}"
            )
        lines += [
            f"not judged, because a version isn't PEP 440: {package}: {', '.join(ids)}"
            for package, ids in self.unjudged.items()
        ]
        if self.accepted:
            lines.append(f"accepted: {', '.join(sorted(self.accepted))}")
        count = f"{len(self.hits)} known vulnerabilities" if self.hits else "no known vulnerability"
        lines.append(f"{count} in {self.packages} Python packages, by {self.advisories:,} advisories")
        if self.others:
            lines.append(f"{len(self.others)} conda packages are none of PyPI's: OSV has no advisories about them")
        return "\n".join(lines) + "\n"


def audit(inventories: Sequence[Inventory], advisories: Path, accepted: Collection[str] = ()) -> Audit:
    """Return what the advisories (OSV JSON: a file, a folder, a zip) say of the Python packages of `inventories`.

    Of an environment its distributions count, as Python finds them. Raises InputError for advisories that can't be
    read or are about another ecosystem.
    """
    found = Audit(inventories[0].source)
    for inventory in inventories:
        packages, others = _packages(inventory)
        found.packages = max(found.packages, len(packages))
        found.others = sorted({*found.others, *others})
        try:
            there = _osv.search(advisories, packages, accepted)
        except (OSError, ValueError) as error:
            why = f"{advisories}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise InputError(
                f"the advisories can't be read: {why}",
                "name a file, a folder or a zip of OSV's JSON about PyPI with --osv",
            ) from error
        found.advisories = there.count
        found.accepted |= there.accepted
        found.unjudged |= there.unjudged
        for hit in there.hits:
            found.hits.setdefault(hit, []).append(inventory.platform)
    return found


def _packages(inventory: Inventory) -> tuple[dict[str, str], list[str]]:
    """Return version by PyPI name, and the conda packages that are no Python distribution."""
    if inventory.kind == "prefix":
        prefix = Path(inventory.source)
        sites = sorted((prefix / "lib").glob("python3.*/site-packages"))
        installed = {d.name: d.version for s in sites for d in distributions(prefix, s.relative_to(prefix).as_posix())}
        return installed, [p.name for p in inventory.packages if p.kind == "conda" and _pypi(p) not in installed]
    names, others = {}, []
    for package in inventory.packages:
        name = _pypi(package)
        if name is None:
            others.append(package.name)
        else:
            names[name] = package.version
    return names, others


def _pypi(package: Package) -> str | None:
    """Return the name on PyPI; of a conda package that isn't mapped its own, where it needs Python."""
    known = None if package.kind == "pip" else load_names().to_pypi(package.name)
    if known or (package.kind == "conda" and "python" not in map(spec_name, package.depends)):
        return known
    return package.key

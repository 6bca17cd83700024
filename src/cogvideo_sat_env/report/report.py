"""Everything about some inventories on one page: as values with stable keys, and as text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.base.timestamp import timestamp
from cogvideo_sat_env.report.bounds import FLOOR, Row, judge
from cogvideo_sat_env.report.columns import align
from cogvideo_sat_env.report.graph import Graph, make_graph
from cogvideo_sat_env.report.inventory import Inventory, Package
from cogvideo_sat_env.report.licences import MEANING, flagged, flags
from cogvideo_sat_env.report.size import HOW, Sizes, largest, measure

SCHEMA = 1
DAY = 86400
COOL_DOWN = 14  # days: younger releases are the ones that are withdrawn
AGES = ((COOL_DOWN, "under 14 days"), (90, "14 to 90 days"), (365, "90 days to a year"), (3 * 365, "1 to 3 years"))
OLDER, NO_AGE = "older than 3 years", "unknown"
_SHOWN = 8


@dataclass(frozen=True)
class View:
    """One inventory, with all that is derived from it."""

    inventory: Inventory
    graph: Graph
    sizes: Sizes
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class InventoryReport:
    """What some inventories hold, side by side; `moment` (seconds since 1970) is what ages are counted to."""

    views: tuple[View, ...]
    moment: int

    @property
    def labels(self) -> list[str]:
        """The views' names: variants or platforms, with their sources where those are the same."""
        names = [view.inventory.label for view in self.views]
        return [
            name if names.count(name) == 1 else f"{name} of {view.inventory.source}"
            for name, view in zip(names, self.views, strict=True)
        ]

    def age(self, package: Package) -> int | None:
        """Return the days since the package was built, None where its metadata doesn't say when."""
        return None if package.timestamp is None else max(0, (self.moment - package.timestamp) // DAY)

    def ages(self, view: View) -> dict[str, int]:
        """Return how many packages are how old."""
        found = dict.fromkeys([name for _, name in AGES] + [OLDER, NO_AGE], 0)
        for package in view.inventory.packages:
            found[age_group(self.age(package))] += 1
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the report for scripts and for the page."""
        return {
            "schema": SCHEMA, "tool_version": __version__, "as_of": day(self.moment), "shared": HOW,
            "licence_flags": {flag: {"name": name, "meaning": text} for flag, (name, text) in MEANING.items()},
            "views": [self._view(view, label) for view, label in zip(self.views, self.labels, strict=True)],
        }  # fmt: skip

    def _view(self, view: View, label: str) -> dict[str, Any]:
        inventory, graph = view.inventory, view.graph
        numbers = {root.key: number for number, root in enumerate(graph.roots)}
        return {
            "label": label, "source": inventory.source, "kind": inventory.kind,
            "platform": inventory.platform, "variant": inventory.variant, "lock_sha256": inventory.sha256,
            "measure": "installed" if view.sizes.installed else "archives", "total": view.sizes.total.to_json(),
            "ages": self.ages(view),
            "roots": [vars(root) for root in graph.roots],
            "requirements": [
                {"root": numbers[share.root.key], "counted": share.counted.to_json(), "alone": share.alone.to_json(),
                 "in_all": share.in_all.to_json()}
                for share in view.sizes.shares
            ],
            "packages": [
                {"key": p.key, "name": p.name, "version": p.version, "build": p.build, "kind": p.kind,
                 "channel": p.channel, "subdir": p.subdir, "size": p.size, "installed_size": p.installed_size,
                 "sha256": p.sha256, "licence": p.licence, "flags": list(flags(p.licence)),
                 "built": None if p.timestamp is None else day(p.timestamp), "age_days": self.age(p),
                 "root": graph.owner[p.key], "needs": dict(sorted(graph.needs[p.key].items()))}
                for p in inventory.packages
            ],
            "bounds": [
                {"name": row.name, "role": row.role, "package": row.package.key if row.package else None,
                 "version": row.package.version if row.package else None, "floor": row.floor,
                 "bounds": [{"id": b.id, "bound": b.text, "why": b.why} for b in row.bounds if b.id != FLOOR],
                 "broken": [bound.id for bound in row.broken]}
                for row in view.rows
            ],
        }  # fmt: skip

    def to_text(self) -> str:
        """Return a summary of each inventory and a table of the requirements' versions side by side."""
        parts = ["\n".join(self._summary(view)) for view in self.views]
        if len(self.views) > 1:
            parts.append("\n".join(self._side_by_side()))
        return "\n\n".join(parts) + "\n"

    def _summary(self, view: View) -> list[str]:
        inventory, installed = view.inventory, view.sizes.installed
        pip = sum(package.kind == "pip" for package in inventory.packages)
        what = "on the disk" if installed else "to download"
        big = [
            f"{p.name} {human_bytes(size)}"
            for p in largest(inventory.packages, installed)[:5]
            if (size := p.installed_size if installed else p.size)
        ]
        lines = [
            f"{inventory.label} ({inventory.source}): {len(inventory.packages)} packages, {pip} of them from pip; "
            f"{view.sizes.total} {what}",
            f"  largest    {', '.join(big) or 'unknown'}",
            f"  pulled in  {', '.join(f'{s.root.spec}: {s.counted}' for s in view.sizes.shares[:4])}",
        ]
        for number, (flag, several) in enumerate(flagged(inventory.packages).items()):
            names = ", ".join(p.name for p in several[:_SHOWN]) + (" …" if len(several) > _SHOWN else "")
            lines.append(f"  {'' if number else 'licences':<9}  {MEANING[flag][0]}: {len(several)} ({names})")
        wrong = [row for row in view.rows if row.broken]
        judged = sum(len(row.bounds) for row in view.rows if row.package)
        state = f"all {judged} floors and bounds hold" if not wrong else f"of {judged} floors and bounds, not:"
        lines.append(f"  bounds     {state}")
        for row in wrong:
            bounds = ", ".join(f"{bound.text} ({bound.id})" for bound in row.broken)
            found = " ".join(filter(None, [row.name, row.package.version, row.package.build]))
            lines.append(f"    ! {found} breaks {bounds}")
        return [*lines, f"  age        {self._age_words(view)}"]

    def _age_words(self, view: View) -> str:
        known = sorted((a, p.name) for p in view.inventory.packages if (a := self.age(p)) is not None)
        if not known:
            return "unknown: the metadata has no time stamps"
        young = [f"{name} ({age} d)" for age, name in known if age < COOL_DOWN]
        median = statistics.median(age for age, _ in known)
        unknown = len(view.inventory.packages) - len(known)
        return (
            f"median {median:.0f} days; oldest {known[-1][1]} ({known[-1][0]} d); "
            f"under {COOL_DOWN} days: {', '.join(young) or 'none'}; unknown: {unknown}"
        )

    def _side_by_side(self) -> list[str]:
        head = ["requirement", *self.labels]
        rows = []
        for several in zip(*(view.rows for view in self.views), strict=True):
            versions = [row.package.version + (" (pip)" if row.package.kind == "pip" else "") if row.package else "-"
                        for row in several]  # fmt: skip
            rows.append([several[0].name, *versions])
        return align([head, *rows])


def make_report(inventories: Sequence[Inventory], moment: int | None = None) -> InventoryReport:
    """Return the report of `inventories`, with ages as of `moment` (None: SOURCE_DATE_EPOCH, else now).

    Raises InputError when the project's requirements or its ledger can't be read, or SOURCE_DATE_EPOCH is no number.
    """
    views = []
    for inventory in inventories:
        graph = make_graph(inventory)
        views.append(View(inventory, graph, measure(graph), tuple(judge(inventory))))
    return InventoryReport(tuple(views), timestamp(int(time.time())) if moment is None else moment)


def age_group(age: int | None) -> str:
    """Return in which group of AGES an age in days falls."""
    if age is None:
        return NO_AGE
    return next((name for limit, name in AGES if age < limit), OLDER)


def day(moment: int) -> str:
    """Return the day (UTC) of a moment in seconds since 1970."""
    return f"{datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%d}"

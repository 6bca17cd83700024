"""Why a package is there: its chains of requirements in a lock, prefix or bundle, and what the ledger says of it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.report.graph import PIP_PIECE, REQUESTED, Graph, RootRequirement, make_graph
from cogvideo_sat_env.report.inventory import Inventory, Package
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.reasons import Answer, explain, spec_key

_SHOWN = 6  # chains and direct requirers for people; scripts get all


@dataclass(frozen=True)
class Presence:
    """A package in one inventory: where it comes from, who needs it, and a shortest chain from each requirement."""

    graph: Graph
    package: Package
    chains: tuple[tuple[RootRequirement, tuple[str, ...]], ...]

    @property
    def reasons(self) -> list[str]:
        """Why it is there: "requested", "pip piece", "required by", of which several can be true."""
        own = [root.kind for root, steps in self.chains if len(steps) == 1]
        return own + (["required by"] if self.graph.needed_by[self.package.key] else [])

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        inventory, package = self.graph.inventory, self.package
        return {
            "source": inventory.source, "platform": inventory.platform, "variant": inventory.variant,
            "name": package.name, "version": package.version, "build": package.build, "kind": package.kind,
            "size": package.size, "licence": package.licence, "reasons": self.reasons,
            "required_by": [
                {"name": self.graph.packages[key][0].name, "spec": spec}
                for key, spec in sorted(self.graph.needed_by[package.key].items())
            ],
            "chains": [
                {"requirement": root.spec, "kind": root.kind, "where": root.where, "comment": root.comment,
                 "path": [self.graph.packages[step][0].name for step in steps]}
                for root, steps in self.chains
            ],
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        package, inventory = self.package, self.graph.inventory
        size = "size unknown" if package.size is None else human_bytes(package.size)
        source = package.channel.rpartition("/")[2] if package.kind == "conda" else "pip"
        lines = [
            f"{package.name} {package.version} {package.build}".rstrip() + f"  ({source}, {size}, "
            f"{package.licence or 'licence unknown'}) in {inventory.source}, {inventory.label}"
        ]
        for root, steps in self.chains:
            if len(steps) == 1:
                kind = {REQUESTED: "requested", PIP_PIECE: "requested, from pip"}.get(root.kind, root.kind)
                about = f": '{root.spec}' in {root.where}" if root.where else ""
                lines.append(f"  {kind}{about}" + (f": {root.comment}" if root.comment else ""))
        above = sorted(self.graph.needed_by[package.key].items())
        if above:
            named = [f"{self.graph.packages[key][0].name} ('{spec}')" for key, spec in above[:_SHOWN]]
            more = f" and {len(above) - _SHOWN} others" if len(above) > _SHOWN else ""
            lines.append(f"  required by {', '.join(named)}{more}")
        longer = [(root, steps) for root, steps in self.chains if len(steps) > 1]
        for root, steps in longer[:_SHOWN]:
            lines.append(f"  {' → '.join([root.spec, *[self.graph.packages[s][0].name for s in steps[1:]]])}")
        if len(longer) > _SHOWN:
            lines.append(f"  … and from {len(longer) - _SHOWN} requirements more (--json has all)")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Why:
    """All that is known of a name: in the first inventory that has it, and in the requirements and the ledger."""

    name: str
    presence: Presence | None
    elsewhere: tuple[str, ...]  # labels of the other inventories that have it
    known: Answer | None

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        known = self.known or Answer(self.name, None, ())
        return {
            **known.to_json(), "package": self.presence.to_json() if self.presence else None,
            "also_in": list(self.elsewhere),
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        parts = [self.known.to_text()] if self.known else []
        if self.presence:
            also = f"  also in {', '.join(self.elsewhere)}\n" if self.elsewhere else ""
            parts.append(self.presence.to_text() + also)
        return "\n".join(parts)


def find_why(name: str, inventories: Sequence[Inventory]) -> Why:
    """Return why `name` (conda or PyPI spelling, a variable, an id of the ledger) is there, and is bounded.

    The first of `inventories` that has it is shown. Raises InputError, with names that are near, for one that neither
    an inventory nor the ledger nor the requirements have.
    """
    try:
        known = explain(name)
    except InputError:
        known = None
    wanted = spec_key(name)
    keys = [wanted, str(canonicalize_name(load_names().to_conda(wanted)))]
    if known and known.requirement:
        keys.append(str(canonicalize_name(known.requirement.conda or known.requirement.name)))
    having = [one for one in inventories if any(one.find(key) for key in keys)]
    if not having and known is None:
        there = sorted({package.name for one in inventories for package in one.packages})
        near = difflib.get_close_matches(name, there, n=5, cutoff=0.6)
        near = near or [one for one in there if wanted and wanted in one][:5]
        where = ", ".join(dict.fromkeys(one.source for one in inventories))
        raise InputError(
            f"{name}: in none of {where}, and neither a requirement nor bounded here",
            f"is it {', '.join(near)}?" if near else f"all names: {satenv('size --all')}",
        )
    presence = None
    if having:
        graph = make_graph(having[0])
        package = next(found for key in keys if (found := having[0].find(key)))
        presence = Presence(graph, package, tuple(graph.chains(package.key)))
    return Why(name, presence, tuple(one.label for one in having[1:]), known)

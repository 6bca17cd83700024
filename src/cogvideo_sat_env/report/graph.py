"""Which requirement pulls what in: the packages of an inventory as a graph, with the requirements as its roots."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.report.inventory import Inventory, Package
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec, read_environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.variants import derive, read_variants

REQUESTED, PIP_PIECE, LEFT = "requested", "pip piece", "needed by nothing in it"
Edges: TypeAlias = Mapping[str, Mapping[str, str]]  # from a package's key by another's to the spec between them


@dataclass(frozen=True)
class RootRequirement:
    """A requirement: the package that it names (key), its words, where they stand, why; `kind` as above."""

    key: str
    spec: str
    kind: str
    where: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Graph:
    """The packages by key, what each needs and what needs it (key to match spec), and the roots in their order.

    `owner` is for each package the root nearest to it (fewest steps; of several the first), by its number in `roots`;
    `reach` are the keys that each root leads to, itself among them.
    """

    inventory: Inventory
    packages: Mapping[str, tuple[Package, ...]]
    needs: Edges
    needed_by: Edges
    roots: tuple[RootRequirement, ...]
    owner: Mapping[str, int] = field(default_factory=dict)
    reach: tuple[frozenset[str], ...] = ()

    def chains(self, key: str) -> list[tuple[RootRequirement, tuple[str, ...]]]:
        """Return the keys of a shortest chain to a package from each root that leads to it, the shortest first."""
        back: dict[str, str] = {}  # the next package on the way to `key`
        queue = deque([key])
        seen = {key}
        while queue:
            at = queue.popleft()
            for above in sorted(self.needed_by.get(at, ())):
                if above not in seen:
                    seen.add(above)
                    back[above] = at
                    queue.append(above)
        found = []
        for number, root in enumerate(self.roots):
            if root.key not in seen:
                continue
            steps = [root.key]
            while steps[-1] != key:
                steps.append(back[steps[-1]])
            found.append((len(steps), number, root, tuple(steps)))
        return [(root, steps) for _, _, root, steps in sorted(found, key=lambda item: item[:2])]


def make_graph(inventory: Inventory, environment: Environment | None = None) -> Graph:
    """Return the graph of an inventory.

    Its roots are the requirements of `environment` (None: the project's, where the inventory is of one of its variants)
    that are in it, in their order, and then whatever none of those leads to.
    """
    packages: dict[str, tuple[Package, ...]] = {}
    for package in inventory.packages:
        packages[package.key] = (*packages.get(package.key, ()), package)
    needs: dict[str, dict[str, str]] = {key: {} for key in packages}
    needed_by: dict[str, dict[str, str]] = {key: {} for key in packages}
    for key, several in packages.items():
        for package in several:
            for spec in package.depends:
                target = _target(spec, package.kind, packages)
                if target not in (None, key):
                    needs[key].setdefault(target, spec)
                    needed_by[target].setdefault(key, spec)
    wanted = environment or environment_of(inventory)
    roots = _roots(wanted, packages) if wanted else []
    roots += _left(roots, needs, needed_by)
    owner, reach = _spread(roots, needs)
    return Graph(inventory, packages, needs, needed_by, tuple(roots), owner, reach)


def spec_name(spec: str) -> str:
    """Return the name in a match spec or a requirement."""
    return re.split(r"[\s<>=!~\[(;]", spec.strip(), maxsplit=1)[0]


def _target(spec: str, kind: str, packages: Mapping[str, object]) -> str | None:
    name = spec_name(spec)
    key = str(canonicalize_name(name))
    if kind == "pip":  # the conda package that is this distribution, before one that is only called so (xxhash)
        mapped = str(canonicalize_name(load_names().to_conda(name)))
        return next((found for found in (mapped, key) if found in packages), None)
    return key if key in packages else None


def environment_of(inventory: Inventory) -> Environment | None:
    """Return the environment file that the inventory's variant is made from; None for a foreign lock."""
    name = (inventory.variant or "").partition(":")[0]  # `variant:own-lock` in a bundle
    try:
        environment = read_environment(project_root() / "environment.yml")
    except InputError:
        return None
    for variant in read_variants():
        if variant.id == name:
            path = environment.path.parent / variant.environment
            return derive(environment, variant, path) if not variant.is_primary else environment
    return environment if name.startswith("wheels") or inventory.kind == "wheels" else None


def _roots(environment: Environment, packages: Mapping[str, object]) -> list[RootRequirement]:
    names, found = load_names(), {}
    specs: list[CondaSpec | PipSpec] = [*environment.conda, *environment.pip]
    for spec in specs:
        in_pip = isinstance(spec, PipSpec)
        other = names.to_conda(spec.name) if in_pip else names.to_pypi(spec.name) or spec.name
        keys = [str(canonicalize_name(name)) for name in (spec.name, other)]
        key = next((key for key in keys if key in packages), None)
        if key is not None and key not in found:
            where = f"{environment.path.name}:{spec.line}" if spec.line else environment.path.name
            found[key] = RootRequirement(key, str(spec), PIP_PIECE if in_pip else REQUESTED, where, spec.comment)
    return list(found.values())


def _left(roots: Sequence[RootRequirement], needs: Edges, needed_by: Edges) -> list[RootRequirement]:
    """Return roots for what those that there are don't lead to: of each circle, one."""
    seen: set[str] = set()
    for root in roots:
        seen |= _closure(root.key, needs, seen)
    found = []
    rest = [key for key in sorted(needs) if key not in seen]
    for key in sorted(rest, key=lambda key: (bool(set(needed_by[key]) - {key}), key)):
        if key not in seen:
            found.append(RootRequirement(key, key, LEFT))
            seen |= _closure(key, needs, seen)
    return found


def _closure(key: str, needs: Edges, without: Collection[str] = ()) -> set[str]:
    found, queue = {key}, [key]
    while queue:
        for below in needs[queue.pop()]:
            if below not in found and below not in without:
                found.add(below)
                queue.append(below)
    return found


def _spread(roots: Sequence[RootRequirement], needs: Edges) -> tuple[dict[str, int], tuple[frozenset[str], ...]]:
    """Return each package's nearest root, by a search from all roots at once, and what each root leads to."""
    owner = {root.key: number for number, root in reversed(list(enumerate(roots)))}
    level = [root.key for root in roots]
    while level:
        below: dict[str, int] = {}
        for key in level:
            for target in needs[key]:
                if target not in owner:
                    below[target] = min(owner[key], below.get(target, owner[key]))
        owner |= below
        level = sorted(below)
    return owner, tuple(frozenset(_closure(root.key, needs)) for root in roots)

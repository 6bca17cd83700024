"""What takes the gigabytes, by package and by the requirement that pulls it in; what is shared is counted once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.report.columns import align
from cogvideo_sat_env.report.graph import Graph, RootRequirement
from cogvideo_sat_env.report.inventory import Package

HOW = (
    "Each package is counted once, at the requirement nearest to it (fewest steps; the first of environment.yml where "
    "several are as near). Alone: what no other requirement needs. In all: everything that it leads to, shared or not."
)


@dataclass(frozen=True)
class Sum:
    """Bytes of some packages: of those whose size is known, how many aren't."""

    size: int
    unknown: int
    count: int

    def __str__(self) -> str:
        known = human_bytes(self.size) if self.count > self.unknown else ""
        return " + ".join(filter(None, [known, f"{self.unknown} unknown" if self.unknown else ""])) or "nothing"

    def to_json(self) -> dict[str, int]:
        """Return bytes, packages, and packages of unknown size."""
        return {"bytes": self.size, "packages": self.count, "unknown": self.unknown}


@dataclass(frozen=True)
class Share:
    """What a requirement stands for: counted at it, needed by it alone, and all that it leads to."""

    root: RootRequirement
    counted: Sum
    alone: Sum
    in_all: Sum


@dataclass(frozen=True)
class Sizes:
    """Sizes of one inventory. `installed` says that they are of the files in the prefix, not of the archives."""

    graph: Graph
    total: Sum
    shares: tuple[Share, ...]  # the largest first
    installed: bool

    def to_json(self) -> dict[str, Any]:
        """Return the sizes for scripts."""
        inventory = self.graph.inventory
        return {
            "source": inventory.source, "platform": inventory.platform, "variant": inventory.variant,
            "measure": "installed" if self.installed else "archives", "total": self.total.to_json(),
            "packages": [
                {"name": p.name, "version": p.version, "kind": p.kind, "bytes": bytes_of(p, self.installed),
                 "requirement": self.graph.roots[self.graph.owner[p.key]].spec}
                for p in largest(inventory.packages, self.installed)
            ],
            "requirements": [
                {"requirement": share.root.spec, "kind": share.root.kind, "where": share.root.where,
                 "counted": share.counted.to_json(), "alone": share.alone.to_json(), "in_all": share.in_all.to_json()}
                for share in self.shares
            ],
            "shared": HOW,
        }  # fmt: skip

    def to_text(self, by: str = "package", top: int | None = None) -> str:
        """Return a table by "package" or by "requirement", of the `top` largest (None: all), for people."""
        inventory = self.graph.inventory
        what = "on the disk" if self.installed else "to download (archives)"
        lines = [f"{inventory.source}, {inventory.label}: {len(inventory.packages)} packages, {self.total} {what}", ""]
        if by == "requirement":
            rows = [(str(s.counted), str(s.alone), str(s.in_all), s.root.spec) for s in self.shares[:top]]
            lines += align([("counted", "alone", "in all", "requirement"), *rows], right=(0, 1, 2))
            lines += [*_rest(len(self.shares), top, "requirements"), "", HOW]
        else:
            shown = largest(inventory.packages, self.installed)
            rows = [
                (_size(p, self.installed), p.name, p.version, self.graph.roots[self.graph.owner[p.key]].spec)
                for p in shown[:top]
            ]
            lines += align([("size", "package", "version", "nearest requirement"), *rows], right=(0,))
            lines += _rest(len(shown), top, "packages")
        return "\n".join(lines) + "\n"


def _rest(count: int, top: int | None, what: str) -> list[str]:
    return [f"… and {count - top} {what} more (--all)"] if top is not None and count > top else []


def _size(package: Package, installed: bool) -> str:
    size = bytes_of(package, installed)
    return "unknown" if size is None else human_bytes(size)


def bytes_of(package: Package, installed: bool) -> int | None:
    """Return the package's bytes in the prefix or as an archive; None when they aren't known."""
    return package.installed_size if installed else package.size


def largest(packages: Iterable[Package], installed: bool = False) -> list[Package]:
    """Return the packages from the largest to those of unknown size."""
    return sorted(packages, key=lambda p: (-(bytes_of(p, installed) or -1), p.key))


def total(packages: Iterable[Package], installed: bool = False) -> Sum:
    """Return the sum of the packages' sizes."""
    sizes = [bytes_of(package, installed) for package in packages]
    return Sum(sum(size for size in sizes if size is not None), sizes.count(None), len(sizes))


def measure(graph: Graph) -> Sizes:
    """Return the sizes of what is in `graph`: of a prefix the files' on the disk, else the archives'."""
    installed = graph.inventory.kind == "prefix"
    reached: dict[str, int] = {}
    for keys in graph.reach:
        for key in keys:
            reached[key] = reached.get(key, 0) + 1

    def add(keys: Iterable[str]) -> Sum:
        return total((package for key in keys for package in graph.packages[key]), installed)

    shares = []
    for number, root in enumerate(graph.roots):
        counted = [key for key in graph.packages if graph.owner[key] == number]
        alone = [key for key in graph.reach[number] if reached[key] == 1]
        shares.append(Share(root, add(counted), add(alone), add(graph.reach[number])))
    shares.sort(key=lambda share: (-share.counted.size, share.root.key))
    return Sizes(graph, total(graph.inventory.packages, installed), tuple(shares), installed)

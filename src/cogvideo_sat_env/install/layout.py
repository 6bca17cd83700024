"""Where the files of the packages go in the prefix, and whose is taken where two have one path.

Packages are put in the order in which conda links them: what is needed first, by name where nothing decides. The last
one's file is taken, as conda, mamba and micromamba do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.package_files import SCRIPTS, target_of

# Paths that nothing is loaded from: packages of conda-forge do ship such files twice, and either will do.
_HARMLESS = re.compile(
    r"(^|/)(LICEN[CS]E|COPYING|NOTICE|README|CHANGE|AUTHORS|INSTALLER|RECORD)[^/]*$|"
    r"\.(md|rst|txt|html|pdf|la|pyc)$|"
    r"^share/(doc|man|info|licenses?|examples?)/|"
    r"^<site>/(tests?|docs?|examples?|benchmarks?)/",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layout:
    """The paths of all packages, by their number.

    site     the prefix's site-packages, relative to it; None without a python package
    python   the path of its Python, relative to it
    targets  the paths of a package's `paths`, relative to the prefix
    claimed  paths that two packages have, or a package and its own entry point
    lost     those of each package where another's file is taken
    """

    site: str | None
    python: str
    targets: Sequence[Sequence[str]]
    claimed: frozenset[str]
    lost: Sequence[frozenset[str]]
    _own: dict[int, list[str]] = field(default_factory=dict, compare=False)

    def site_for(self, package: ExtractedPackage) -> str | None:
        """Return `site` for a noarch Python package, else None."""
        return self.site if package.noarch_python else None

    def skipped(self, number: int) -> list[str]:
        """Return the paths of package `number` that are not its alone."""
        targets = self.targets[number]
        return [] if self.claimed.isdisjoint(targets) else sorted(self.claimed.intersection(targets))

    def entries(self, package: ExtractedPackage, number: int) -> list[Mapping[str, Any]]:
        """Return the entries of package `number` that are to be linked."""
        scripts = {script.path for script in package.entry_points}
        left_out = self.lost[number] | scripts
        if left_out.isdisjoint(self.targets[number]):
            return list(package.paths)
        pairs = zip(package.paths, self.targets[number], strict=True)
        return [entry for entry, target in pairs if target not in left_out]

    def own(self, package: ExtractedPackage, number: int) -> list[str]:
        """Return the paths of package `number` whose files may not be one with the package's, or aren't its alone."""
        if number not in self._own:
            claimed = frozenset(self.skipped(number))
            self._own[number] = [
                target
                for entry, target in zip(package.paths, self.targets[number], strict=True)
                if (not package_manifest.is_plain(entry) or target in claimed or entry["_path"].startswith(SCRIPTS))
                and target not in self.lost[number]
            ]
        return self._own[number]


def of(packages: Sequence[ExtractedPackage]) -> Layout:
    """Return where everything goes.

    Raises VerificationError where one package has a file or a link in place of another's folder.
    """
    python = next((p for p in packages if p.artefact.name == "python"), None)
    site = _site_packages(python.index) if python else None
    version = ".".join(str(python.index.get("version")).split(".")[:2]) if python else ""
    targets = [
        [target_of(entry["_path"], site if package.noarch_python else None) for entry in package.paths]
        for package in packages
    ]
    seen: set[str] = set()
    claimed: set[str] = set()
    folders: set[str] = set()
    for package, names in zip(packages, targets, strict=True):
        scripts = [script.path for script in package.entry_points]
        own = {*names, *scripts}
        if any(entry.get("path_type") == "directory" for entry in package.paths):
            own -= {n for e, n in zip(package.paths, names, strict=True) if e.get("path_type") == "directory"}
            folders |= set(names) - own
        claimed |= seen & own
        claimed.update(set(names).intersection(scripts))
        seen |= own
        folders |= {name.rpartition("/")[0] for name in own}
    folders |= {parent for folder in folders for parent in _parents(folder)}
    if blocking := seen & folders:
        raise _blocked(min(blocking), packages, targets)
    return Layout(site, f"bin/python{version}", targets, frozenset(claimed), _lost(packages, targets, claimed))


def _lost(
    packages: Sequence[ExtractedPackage], targets: Sequence[Sequence[str]], claimed: set[str]
) -> list[frozenset[str]]:
    """Return for each package the paths of `claimed` that a later one has, too."""
    taken: dict[str, int] = {}
    own: list[set[str]] = [set()] * len(packages)
    for number in link_order(packages) if claimed else ():
        own[number] = claimed.intersection([*targets[number], *(s.path for s in packages[number].entry_points)])
        taken.update(dict.fromkeys(own[number], number))
    return [frozenset(path for path in paths if taken[path] != number) for number, paths in enumerate(own)]


def link_order(packages: Sequence[ExtractedPackage]) -> list[int]:
    """Return the numbers of the packages in the order in which conda links them."""
    numbers = {package.artefact.name: number for number, package in enumerate(packages)}
    needs = {
        name: {str(need).split()[0] for need in packages[number].index.get("depends") or ()} & numbers.keys() - {name}
        for name, number in numbers.items()
    }
    if "python" in needs:
        needs["python"].discard("pip")  # conda-forge's python and pip name each other
    order: list[int] = []
    while True:
        sorter = TopologicalSorter(needs)
        try:
            sorter.prepare()
        except CycleError as error:  # conda goes on with the one that needs the fewest, and the names decide
            cycle = error.args[1]
            first = min(cycle, key=lambda name: (len(needs[name]), name))
            needs[first] -= set(cycle)
            continue
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += [numbers[name] for name in ready]
            sorter.done(*ready)
        return order


def _blocked(path: str, packages: Sequence[ExtractedPackage], targets: Sequence[Sequence[str]]) -> VerificationError:
    owner = next(p for p, names in zip(packages, targets, strict=True)
                 if path in names or path in [s.path for s in p.entry_points])  # fmt: skip
    other, below = next(
        (package, name)
        for package, names in zip(packages, targets, strict=True)
        for name in [*names, *(s.path for s in package.entry_points)]
        if name.startswith(f"{path}/") or (name == path and package is not owner)
    )
    return VerificationError(
        f"{owner.artefact.file_name}: has a file or a link at {path}, where {other.artefact.file_name} has a folder "
        f"({below}); both can't be in one environment",
        "lock another version of one of the two; tell their channel",
    )


def collisions(packages: Sequence[ExtractedPackage], layout: Layout) -> list[str]:
    """Return the paths that two packages ship with different content, described; what matters at run time first.

    They are reported, not refused: conda only warns as well, and a lock of published packages must install.
    """
    first: dict[str, tuple[str, object]] = {}
    harmful, harmless = [], []
    claimed = layout.claimed
    for package, targets in sorted(zip(packages, layout.targets, strict=True), key=lambda pair: pair[0].artefact.name):
        name = package.artefact.name
        contents: list[tuple[str, object]] = [
            (script.path, f"entry point of {name}") for script in package.entry_points if script.path in claimed
        ]
        if not claimed.isdisjoint(targets):
            contents += [
                (path, entry.get("sha256"))
                for entry, path in zip(package.paths, targets, strict=True)
                if path in claimed and entry.get("path_type") != "directory"
            ]
        for path, content in contents:
            shown = f"<site>/{path[len(layout.site) + 1 :]}" if path.startswith(f"{layout.site}/") else path
            other, other_content = first.setdefault(path, (name, content))
            if other != name and other_content != content:
                text = f"{shown.replace('<site>', 'site-packages')}: both in {other} and in {name}"
                (harmless if _HARMLESS.search(shown) else harmful).append(text)
    return [*harmful, *harmless]


def _site_packages(index: Mapping[str, Any]) -> str:
    """Return what CEP 17 says, or what all Pythons had before it."""
    given = index.get("python_site_packages_path")
    return str(given) if given else f"lib/python{'.'.join(str(index.get('version')).split('.')[:2])}/site-packages"


def _parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]

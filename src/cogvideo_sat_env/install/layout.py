"""Where the files of the packages go in the prefix, and which of these paths need a decision.

Plain files (package_manifest.py) at a path that is theirs alone are hard-linked; all others are left to rattler, whose
rules say what becomes of a path that two packages have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.install.archive import Package
from cogvideo_sat_env.install.hardlink import target_of

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
    """The paths of all packages.

    site       the prefix's site-packages, relative to it; None without a python package
    targets    for each package the paths of its `paths`, relative to the prefix
    generated  paths of scripts that are made for entry points; a file there is left out: rattler would write the script
               through its hard link into the package cache
    claimed    paths that two packages have
    below      paths that lie below a path that another package has as a file or a link
    shared     all of them: nothing there is linked apart
    """

    site: str | None
    targets: Sequence[Sequence[str]]
    generated: frozenset[str]
    claimed: frozenset[str]
    below: frozenset[str]
    shared: frozenset[str]

    def site_for(self, package: Package) -> str | None:
        """Return `site` for a noarch Python package, else None."""
        return self.site if package.noarch_python else None

    def skipped(self, number: int) -> list[str]:
        """Return the paths of package `number` that are not its alone."""
        targets = self.targets[number]
        return [] if self.shared.isdisjoint(targets) else sorted(self.shared.intersection(targets))

    def rest(self, package: Package, number: int, linked: bool = True) -> list[Mapping[str, Any]]:
        """Return the entries of package `number` that are rattler's; with `linked` the plain ones are linked apart."""
        skipped = frozenset(self.skipped(number))
        scripts = package.noarch_python
        return [
            entry
            for entry, target in zip(package.paths, self.targets[number], strict=True)
            if target not in self.generated
            and (
                not (linked and package_manifest.is_plain(entry))
                or target in skipped
                or (scripts and entry["_path"].startswith("python-scripts/"))
            )
        ]


def of(packages: Sequence[Package]) -> Layout:
    """Return where everything goes."""
    site = next((_site_packages(p.index) for p in packages if p.artefact.name == "python"), None)
    targets: list[list[str]] = []
    seen: set[str] = set()
    claimed: set[str] = set()
    generated: set[str] = set()
    folders: set[str] = set()
    for package in packages:
        names = [entry["_path"] for entry in package.paths]
        if site and package.noarch_python:
            names = [target_of(name, site) for name in names]
        targets.append(names)
        scripts = entry_points(package)
        generated.update(scripts)
        own = {*names, *scripts}
        if any(entry.get("path_type") == "directory" for entry in package.paths):
            own.difference_update(e["_path"] for e in package.paths if e.get("path_type") == "directory")
        claimed |= seen & own
        seen |= own
        folders |= {name.rpartition("/")[0] for name in own}
    folders |= {parent for folder in folders for parent in _parents(folder)}
    blocking = seen & folders
    through = tuple(f"{path}/" for path in blocking)
    below = {name for name in seen if name.startswith(through)} if through else set()
    shared = claimed | generated | below | blocking
    return Layout(site, targets, *map(frozenset, (generated, claimed, below, shared)))


def collisions(packages: Sequence[Package], layout: Layout) -> list[str]:
    """Return the paths that two packages ship with different content, described; what matters at run time first.

    They are told, not refused: conda only warns as well, and a lock of published packages must install.
    """
    first: dict[str, tuple[str, object]] = {}
    harmful, harmless = [], []
    told = layout.claimed | layout.below
    for package, targets in sorted(zip(packages, layout.targets, strict=True), key=lambda pair: pair[0].artefact.name):
        name = package.artefact.name
        contents = [(script, f"entry point of {name}") for script in entry_points(package) if script in told]
        if not told.isdisjoint(targets):
            contents += [
                (path, entry.get("sha256"))
                for entry, path in zip(package.paths, targets, strict=True)
                if path in told and entry.get("path_type") != "directory"
            ]
        for path, content in contents:
            shown = f"<site>/{path[len(layout.site) + 1 :]}" if path.startswith(f"{layout.site}/") else path
            named = shown.replace("<site>", "site-packages")
            other, other_content = first.setdefault(path, (name, content))
            if other != name and other_content != content:
                said = f"{named}: both in {other} and in {name}"
            elif path in layout.below:
                said = f"{named}: in {name}; another package has a file or a link in place of its folder"
            else:
                continue
            (harmless if _HARMLESS.search(shown) else harmful).append(said)
    return [*harmful, *harmless]


def _site_packages(index: Mapping[str, Any]) -> str:
    """Return what CEP 17 says, or what all Pythons had before it."""
    said = index.get("python_site_packages_path")
    return str(said) if said else f"lib/python{'.'.join(str(index.get('version')).split('.')[:2])}/site-packages"


def entry_points(package: Package) -> list[str]:
    """Return the paths of the scripts that are made for a noarch Python package."""
    if not package.noarch_python:
        return []
    try:
        said = json.loads((package.folder / "info" / "link.json").read_bytes())["noarch"].get("entry_points") or ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # none, or one that rattler tells about
    return [f"bin/{str(point).partition('=')[0].strip()}" for point in said]


def _parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]

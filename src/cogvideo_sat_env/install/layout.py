"""Where the files of the packages go in the prefix, and whose is taken where two have one path.

Packages are put in the order in which conda links them: what is needed first, by name where nothing decides. The last
one's file is taken, as conda, mamba and micromamba do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cogvideo_sat_env.base.artefacts import needed_first
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


@dataclass
class Placed:
    """A package in the prefix.

    targets  where the files of its `paths` go, relative to the prefix
    claimed  paths of its files and entry points that another package has, too, or both of them
    lost     those of them where another's file is taken
    """

    package: ExtractedPackage
    targets: Sequence[str]
    claimed: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()

    @property
    def scripts(self) -> list[str]:
        """The paths of its entry points."""
        return [point.path for point in self.package.entry_points]

    def files(self) -> Iterator[tuple[Mapping[str, Any], str]]:
        """Return each entry of its `paths`, and where it goes."""
        return zip(self.package.paths, self.targets, strict=True)

    def entries(self) -> list[Mapping[str, Any]]:
        """Return the entries that are to be linked."""
        left_out = self.lost.union(self.scripts)
        return [entry for entry, target in self.files() if target not in left_out]

    @cached_property
    def own(self) -> list[str]:
        """The paths whose files may not be one with the package's, or aren't its alone."""
        return [
            target
            for entry, target in self.files()
            if (not package_manifest.is_plain(entry) or target in self.claimed or entry["_path"].startswith(SCRIPTS))
            and target not in self.lost
        ]


@dataclass(frozen=True)
class Layout:
    """Where all packages go. `site` is the prefix's site-packages, None without a python package; `python` its Python.

    Both are relative to the prefix.
    """

    site: str | None
    python: str
    placed: Sequence[Placed]


def of(packages: Sequence[ExtractedPackage]) -> Layout:
    """Return where everything goes.

    Raises VerificationError where one package has a file or a link in place of another's folder.
    """
    python = next((p for p in packages if p.artefact.name == "python"), None)
    site, version = None, ""
    if python:
        version = ".".join(str(python.index.get("version")).split(".")[:2])
        # what CEP 17 says, or what all Pythons had before it
        site = str(python.index.get("python_site_packages_path") or f"lib/python{version}/site-packages")
    placed = [
        Placed(package, [target_of(entry["_path"], site if package.noarch_python else None) for entry in package.paths])
        for package in packages
    ]
    seen: set[str] = set()
    claimed: set[str] = set()
    folders: set[str] = set()
    for each in placed:
        directories = {target for entry, target in each.files() if entry.get("path_type") == "directory"}
        own = {*each.targets, *each.scripts} - directories
        claimed |= seen & own
        claimed.update(set(each.targets).intersection(each.scripts))
        seen |= own
        folders |= directories | {name.rpartition("/")[0] for name in own}
    folders |= {parent for folder in folders for parent in _parents(folder)}
    if blocking := seen & folders:
        raise _blocked(min(blocking), placed)
    taken: dict[str, Placed] = {}
    named = {each.package.artefact.name: each for each in placed}
    depends = {name: each.package.index.get("depends") or () for name, each in named.items()}
    for each in map(named.__getitem__, needed_first(depends)) if claimed else ():
        each.claimed = frozenset(claimed.intersection([*each.targets, *each.scripts]))
        taken.update(dict.fromkeys(each.claimed, each))
    for each in placed:
        each.lost = frozenset(path for path in each.claimed if taken[path] is not each)
    return Layout(site, f"bin/python{version}", placed)


def _blocked(path: str, placed: Sequence[Placed]) -> VerificationError:
    names = [(each, name) for each in placed for name in (*each.targets, *each.scripts)]
    owner = next(each for each, name in names if name == path)
    other, below = next(
        (each, name) for each, name in names if name.startswith(f"{path}/") or (name == path and each is not owner)
    )
    return VerificationError(
        f"{owner.package.artefact.file_name}: has a file or a link at {path}, where "
        f"{other.package.artefact.file_name} has a folder ({below}); both can't be in one environment",
        "lock another version of one of the two; tell their channel",
    )


def collisions(layout: Layout) -> list[str]:
    """Return the paths that two packages ship with different content, described; what matters at run time first.

    They are reported, not refused: conda only warns as well, and a lock of published packages must install.
    """
    first: dict[str, tuple[str, object]] = {}
    harmful, harmless = [], []
    for each in sorted(layout.placed, key=lambda each: each.package.artefact.name):
        name = each.package.artefact.name
        contents: list[tuple[str, object]] = [
            (path, f"entry point of {name}") for path in each.scripts if path in each.claimed
        ]
        contents += [
            (path, entry.get("sha256"))
            for entry, path in each.files()
            if path in each.claimed and entry.get("path_type") != "directory"
        ]
        for path, content in contents:
            shown = f"<site>/{path[len(layout.site) + 1 :]}" if path.startswith(f"{layout.site}/") else path
            other, other_content = first.setdefault(path, (name, content))
            if other != name and other_content != content:
                text = f"{shown.replace('<site>', 'site-packages')}: both in {other} and in {name}"
                (harmless if _HARMLESS.search(shown) else harmful).append(text)
    return [*harmful, *harmless]


def _parents(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]

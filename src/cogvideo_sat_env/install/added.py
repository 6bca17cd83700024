"""What was put into a prefix beside the lock's packages: by pip in place of one, by pip besides, by the user."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.utils import canonicalize_name

from cogvideo_sat_env.install.package_manifest import walk


@dataclass(frozen=True)
class Distribution:
    """A Python distribution that lies in a prefix: its .dist-info folder and its files, relative to the prefix."""

    name: str
    version: str
    info: str
    files: tuple[str, ...]


def distributions(prefix: Path, site: str) -> Iterator[Distribution]:
    """Yield what has a .dist-info in `site`, the site-packages of `prefix`; one without a name is skipped."""
    folder = prefix / site
    for info in sorted(folder.glob("*.dist-info")) if folder.is_dir() else ():
        try:
            head = HeaderParser().parsestr((info / "METADATA").read_text("utf-8", "replace"))
        except OSError:
            head = HeaderParser().parsestr("")
        named = info.name.removesuffix(".dist-info").rpartition("-")
        name, version = str(head["Name"] or named[0]), str(head["Version"] or named[2])
        if name:
            inside = [f"{site}/{info.name}/{path}" for path, _ in walk(str(info))]
            yield Distribution(
                canonicalize_name(name), version, f"{site}/{info.name}", (*_recorded(info, site), *inside)
            )


def _recorded(info: Path, site: str) -> Iterator[str]:
    try:
        lines = (info / "RECORD").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        name = line.rsplit(",", 2)[0].strip('"')
        path = posixpath.normpath(f"{site}/{name}")
        if name and not name.startswith("/") and path != ".." and not path.startswith("../"):
            yield path


def site_of(wanted: Collection[str]) -> str | None:
    """Return the site-packages of a prefix that holds the paths `wanted`; None when it has no distribution."""
    infos = {path.rpartition(".dist-info/")[0].rpartition("/")[0] for path in wanted if ".dist-info/" in path}
    return next((site for site in sorted(infos) if site.endswith("/site-packages")), None)


@dataclass(frozen=True)
class Strangers:
    """Files in a prefix that no package of the lock or of conda's has.

    stale  what serves nothing, and why: bytecode without a source, what pip left of an upgrade
    aside  what Python would import beside the lock's packages: what pip added, and files of no package
    kept   all others: the user's own
    """

    stale: dict[str, str]
    aside: list[str]
    kept: list[str]


def strangers(prefix: Path, owned: Collection[str], site: str | None, foreign: Collection[str]) -> Strangers:
    """Judge the files of `prefix` that are none of `owned`, but for conda's records and what a run works with.

    `site` is its site-packages, `foreign` the files of distributions that pip added, which go aside wherever they are.
    """
    found = Strangers({}, [], [])
    modules = f"{site.rpartition('/')[0]}/" if site else None
    for path, _ in walk(str(prefix)):
        if path in owned or path.startswith(("conda-meta/", f".{prefix.name}.satenv-", f".{prefix.name}.lock")):
            continue
        source = _source_of(path)
        if site and path.startswith(f"{site}/~"):
            found.stale[path] = "left by pip"
        elif source is not None and source not in foreign and (source in owned or not modules):
            continue
        elif source is not None and not os.path.lexists(prefix / source):
            found.stale[path] = "bytecode of what isn't there"
        elif path in foreign or (modules and path.startswith(modules)):
            found.aside.append(path)
        elif source is None:
            found.kept.append(path)
    return Strangers(found.stale, sorted(found.aside), sorted(found.kept))


def _source_of(path: str) -> str | None:
    """Return the source of a file that is bytecode in a __pycache__ folder, else None."""
    folder, _, file = path.rpartition("/")
    if not (folder.endswith("__pycache__") and file.endswith(".pyc")):
        return None
    return f"{folder.removesuffix('__pycache__')}{file.partition('.')[0]}.py"


def remove_empty(prefix: Path, paths: Collection[str]) -> None:
    """Remove the folders of removed `paths` that hold nothing any more."""
    for folder in sorted({parent for path in paths for parent in Path(path).parents}, key=str, reverse=True):
        if str(folder) == ".":
            continue
        here = prefix / folder
        if here.is_dir() and not here.is_symlink() and not any(os.scandir(here)):
            here.rmdir()

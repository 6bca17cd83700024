"""What was put into a prefix beside the lock's packages: by pip in place of one of them, by pip besides, by nobody."""

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


def stale(prefix: Path, site: str, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield files that lie in `site` for nothing, and why: bytecode without a source, what pip left of an upgrade."""
    for path, _ in walk(str(prefix / site)):
        name = f"{site}/{path}"
        folder, _, file = path.rpartition("/")
        if path.startswith("~"):
            yield name, "left by pip"
        elif name not in wanted and folder.endswith("__pycache__") and file.endswith(".pyc"):
            source = prefix / site / folder.removesuffix("__pycache__") / f"{file.partition('.')[0]}.py"
            if not source.exists():
                yield name, "bytecode of what isn't there"


def unowned(prefix: Path, owned: Collection[str]) -> list[str]:
    """Return the files in `prefix` that are none of `owned`, but for conda's records and bytecode."""
    return sorted(
        path
        for path, _ in walk(str(prefix))
        if path not in owned and not path.startswith("conda-meta/") and not path.endswith(".pyc")
    )


def remove_empty(prefix: Path, paths: Collection[str]) -> None:
    """Remove the folders of removed `paths` that hold nothing any more."""
    for folder in sorted({parent for path in paths for parent in Path(path).parents}, key=str, reverse=True):
        if str(folder) == ".":
            continue
        here = prefix / folder
        if here.is_dir() and not here.is_symlink() and not any(os.scandir(here)):
            here.rmdir()

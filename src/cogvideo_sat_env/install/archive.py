"""What the packages say about themselves, read before the first link: paths, placeholders, scripts, collisions."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import PrefixError, VerificationError
from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.install.entry_points import EntryPoint, parse
from cogvideo_sat_env.install.package_manifest import PackageManifest

_LINK_SCRIPT = re.compile(r"^bin/\.(?P<package>.+)-(?P<kind>post-link|pre-link|pre-unlink|post-unlink)\.sh$")


@dataclass(frozen=True)
class ExtractedPackage:
    """One extracted package: its lock entry, its manifest, and its own info/index.json and info/paths.json."""

    artefact: CondaArtefact
    manifest: PackageManifest
    index: Mapping[str, Any]
    paths: Sequence[Mapping[str, Any]]

    @property
    def folder(self) -> Path:
        """Where it is extracted."""
        return self.manifest.folder

    @property
    def record_name(self) -> str:
        """The name of its conda-meta record, without `.json`."""
        return f"{self.artefact.name}-{self.artefact.version}-{self.artefact.build}"

    @property
    def noarch_python(self) -> bool:
        """Whether it is a noarch Python package, whose files go where the prefix's Python looks for them."""
        return self.index.get("noarch") == "python"

    @cached_property
    def entry_points(self) -> tuple[EntryPoint, ...]:
        """Its entry points, if it is a noarch Python package."""
        if not self.noarch_python:
            return ()
        try:
            points = json.loads((self.folder / "info" / "link.json").read_bytes())["noarch"].get("entry_points") or ()
            return tuple(map(parse, points))
        except (FileNotFoundError, KeyError):
            return ()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise VerificationError(f"{self.record_name}: info/link.json: {error}", "tell its channel") from error

    @property
    def installed_bytes(self) -> int:
        """Size in bytes of its files once linked."""
        return sum(int(entry.get("size_in_bytes") or 0) for entry in self.paths)

    @property
    def link_scripts(self) -> tuple[str, ...]:
        """Its link scripts: they aren't run unless allowed."""
        return tuple(str(e["_path"]) for e in self.paths if _LINK_SCRIPT.match(str(e["_path"])))


def read_packages(
    artefacts: Sequence[CondaArtefact], manifests: Mapping[str, PackageManifest]
) -> list[ExtractedPackage]:
    """Read what the extracted packages say; `manifests` by SHA-256. Raises VerificationError."""
    packages = []
    for artefact in artefacts:
        proven = manifests[artefact.sha256]
        try:
            index = json.loads((proven.folder / "info" / "index.json").read_bytes())
        except (OSError, ValueError) as error:
            raise VerificationError(f"{proven.folder}: can't be read: {error}", "run it again") from error
        packages.append(ExtractedPackage(artefact, proven, index, package_manifest.read_paths(proven.folder)))
    return packages


def require_prefix_fits(prefix: Path, packages: Sequence[ExtractedPackage]) -> None:
    """Raise PrefixError when `prefix` is longer than the place that binaries have for it."""
    length = len(str(prefix).encode("utf-8"))
    for package in packages:
        for entry in package.paths:
            placeholder = entry.get("prefix_placeholder")
            if placeholder and entry.get("file_mode") == "binary" and length > len(placeholder.encode("utf-8")):
                raise PrefixError(
                    f"{prefix}: {length} bytes long; {entry['_path']} of {package.artefact.name} has room for "
                    f"{len(placeholder.encode('utf-8'))}",
                    "choose a shorter prefix with -p",
                )


def require_no_link_out(packages: Sequence[ExtractedPackage]) -> None:
    """Raise VerificationError when a file would be written through another package's link out of the prefix."""
    out = {}
    for package in packages:
        for entry in package.paths:
            if entry.get("path_type") != "softlink":
                continue
            path = entry["_path"]
            target = os.readlink(package.folder / path)
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if target.startswith("/") or inside == ".." or inside.startswith("../"):
                out[f"{path}/"] = (package, path, target)
    if not out:
        return
    starts = tuple(out)
    for name in (e["_path"] for p in packages for e in p.paths if e["_path"].startswith(starts)):
        package, path, target = next(found for start, found in out.items() if name.startswith(start))
        raise VerificationError(
            f"{package.artefact.file_name}: {path} is a link to {target}, out of the prefix, and another "
            "package's files would be written through it",
            "don't use this package; tell its channel",
        )


def require_case_fits(folder: Path, packages: Sequence[ExtractedPackage]) -> None:
    """Raise PrefixError when paths that differ in case only would overwrite each other in `folder`."""
    if not folds_case(folder):
        return
    first: dict[str, str] = {}
    for package in packages:
        for entry in package.paths:
            other = first.setdefault(entry["_path"].casefold(), entry["_path"])
            if other != entry["_path"]:
                raise PrefixError(
                    f"{folder}: this file system takes {other} and {entry['_path']} (of {package.artefact.name}) for "
                    "the same file",
                    "choose a prefix on a file system that tells upper from lower case",
                )


def folds_case(folder: Path) -> bool:
    """Tell whether the file system of `folder` takes names that differ in case only for the same."""
    probe = folder / ".satenv-Case"
    probe.touch()
    try:
        return (folder / ".satenv-cASE").exists()
    finally:
        probe.unlink()

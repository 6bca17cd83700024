"""What a wheel says about itself, as the fields of a conda package."""

from __future__ import annotations

import os
import platform as host
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.source.wheels.versions import specifier_to_conda
from cogvideo_sat_env.spec.pypi_names import Names

_CUDA = re.compile(r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"](?P<major>\d+)\.(?P<minor>\d+)['\"]", re.MULTILINE)
MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64", "osx-arm64": "arm64"}  # as Python calls them
OLDEST, NEWEST = 10, 13  # minors of the Pythons that wheels are locked for
_CUDA_BUILDS = ("torch",)  # distributions whose conda build string names their CUDA


@dataclass(frozen=True)
class Metadata:
    """The metadata of one wheel. `exact_python` is true when a marker depends on more than Python's minor version."""

    name: str
    version: str
    requires: tuple[str, ...]
    license: str
    summary: str
    homepage: str
    cuda: str  # "128", "cpu", or "" when the build string doesn't name it
    exact_python: bool
    headers: bool = False  # whether it ships some: they lie in a folder of one Python


def read_metadata(wheel: Path) -> Metadata:
    """Read the metadata of a wheel. Raises VerificationError when the file is no wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = archive.namelist()
            path = next(name for name in inside if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
            message = HeaderParser().parsestr(archive.read(path).decode("utf-8", "replace"))
            name = str(canonicalize_name(str(message["Name"])))
            cuda = ""
            if name in _CUDA_BUILDS and f"{name}/version.py" in inside:
                found = _CUDA.search(archive.read(f"{name}/version.py").decode("utf-8", "replace"))
                cuda = f"{found['major']}{found['minor']}" if found else "cpu"
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise VerificationError(f"{wheel.name}: not a wheel: {error or 'no METADATA'}", "lock again") from error
    requires = tuple(str(item) for item in message.get_all("Requires-Dist") or ())
    return Metadata(
        name, str(message["Version"]), requires, license_text(message), " ".join(str(message["Summary"] or "").split()),
        _homepage(message), cuda, any("python_full_version" in item for item in requires),
        any(re.match(r"[^/]+\.data/headers/", path) for path in inside),
    )  # fmt: skip


def build_string(metadata: Metadata, tag: str) -> str:
    """Return the build string, e.g. "py311_0", or "cuda128_py311_0" and "cpu_py311_0" for PyTorch."""
    prefix = {"": "", "cpu": "cpu_"}.get(metadata.cuda, f"cuda{metadata.cuda}_")
    return f"{prefix}{tag}_0"


def depends(metadata: Metadata, names: Names, environment: dict[str, str], minor: str) -> list[str]:
    """Return the conda match specs that the wheel's Requires-Dist mean for this interpreter, Python among them.

    Requirements of the wheel's own extras are left out, and so are the extras that it asks of others: what those bring
    is in the lock, by pip. Raises VerificationError for a requirement that can't be read.
    """
    found = {f"python {minor}.*"}
    for text in metadata.requires:
        try:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({**environment, "extra": ""}):
                continue
            bound = specifier_to_conda(str(requirement.specifier))
        except (InvalidRequirement, ValueError) as error:
            raise VerificationError(
                f"{metadata.name}: Requires-Dist: {text!r}: {error}", "lock another version"
            ) from error
        found.add(f"{names.to_conda(requirement.name)} {bound}".strip())
    return sorted(found)


def requirements(lines: Iterable[str], markers: dict[str, str]) -> list[str]:
    """Return those of Requires-Dist that hold with `markers` and without extras, as `name specifier`, sorted.

    One that can't be read is left out: pip has let it pass, too.
    """
    found = set()
    for text in lines:
        try:
            requirement = Requirement(str(text))
            if requirement.marker is None or requirement.marker.evaluate({**markers, "extra": ""}):
                found.add(f"{requirement.name} {requirement.specifier}".strip())
        except ValueError:
            continue
    return sorted(found)


def markers_of(python: str, platform: str) -> dict[str, str]:
    """Return the PEP 508 variables of the Python `python`, e.g. "3.11", on another `platform`, one of MACHINES."""
    system = "Darwin" if platform.startswith("osx") else "Linux"
    return {
        "implementation_name": "cpython", "implementation_version": f"{python}.0", "os_name": os.name,
        "platform_machine": MACHINES[platform], "platform_python_implementation": "CPython",
        "platform_release": host.release(), "platform_system": system, "platform_version": host.version(),
        "python_full_version": f"{python}.0", "python_version": python, "sys_platform": system.lower(), "extra": "",
    }  # fmt: skip


def oldest_minor(file_name: str) -> int | None:
    """Return the oldest 3.x that is supported here and that the wheel is for; None when it is for one Python alone."""
    try:
        tags = parse_wheel_filename(file_name)[3]
    except (InvalidWheelFilename, InvalidVersion):
        return None
    floors = [
        int(tag.interpreter[3:] or 0)
        for tag in tags
        if re.fullmatch(r"py3\d*", tag.interpreter) or (re.fullmatch(r"cp3\d+", tag.interpreter) and tag.abi == "abi3")
    ]
    return max(OLDEST, min(floors)) if floors else None


def shared_depends(wheel: Path, metadata: Metadata, names: Names, environment: dict[str, str]) -> list[str] | None:
    """Return what the package needs if it is the same for every Python that its tags allow, else None.

    It is when the wheel's file name names no Python (`py3-none-…`, `cp38-abi3-…`), when its requirements are the same
    for all of them, and when none of its files lies in a folder of one Python. Raises VerificationError.
    """
    floor = oldest_minor(wheel.name)
    if floor is None or metadata.exact_python or metadata.headers:
        return None
    needs = []
    for minor in range(floor, max(NEWEST, int(environment["python_version"].split(".")[1])) + 1):
        version = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0", "implementation_version": ""}
        needs.append(depends(metadata, names, {**environment, **version}, f"3.{minor}"))
        needs[-1].remove(f"python 3.{minor}.*")
    return sorted([*needs[0], f"python >=3.{floor}"]) if all(found == needs[0] for found in needs) else None


def license_text(message: Message) -> str:
    """Return the licence that metadata of a distribution names, in its own words; "" where it names none."""
    expression = message["License-Expression"] or message["License"]
    text = str(expression or "").strip()
    if text and "\n" not in text and len(text) <= 100 and text.upper() != "UNKNOWN":
        return text
    kinds = [
        str(item).rpartition("::")[2].strip()
        for item in message.get_all("Classifier") or ()
        if str(item).startswith("License ::") and str(item) != "License :: OSI Approved"
    ]
    return " AND ".join(kinds)


def _homepage(message: Message) -> str:
    if message["Home-page"]:
        return str(message["Home-page"])
    links = [str(item).partition(",") for item in message.get_all("Project-URL") or ()]
    by_label = {label.strip().lower(): link.strip() for label, _, link in links}
    for label in ("homepage", "home", "repository", "source", "source code"):
        if label in by_label:
            return by_label[label]
    return ""

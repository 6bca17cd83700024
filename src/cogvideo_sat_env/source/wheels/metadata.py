"""What a wheel says about itself, as the fields of a conda package."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.source.wheels.versions import specifier_to_conda
from cogvideo_sat_env.spec.pypi_names import Names

_CUDA = re.compile(r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"](?P<major>\d+)\.(?P<minor>\d+)['\"]", re.MULTILINE)
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
        name, str(message["Version"]), requires, _license(message), " ".join(str(message["Summary"] or "").split()),
        _homepage(message), cuda, any("python_full_version" in item for item in requires),
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


def _license(message: Message) -> str:
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

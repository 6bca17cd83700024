"""What a pip resolver asks a package index for, frozen: files by project, requirements by release."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.fetch.index import IndexFile

PATH = "index/projects.json.zst"  # below a folder of frozen metadata
_NOWHERE = Address("")


@dataclass(frozen=True)
class ProjectRelease:
    """One version of a project, as its metadata has it; `requires` are its Requires-Dist."""

    requires: tuple[str, ...] = ()
    requires_python: str = ""


@dataclass(frozen=True)
class Project:
    """All files that an index has of a project, and the releases whose requirements are known."""

    files: tuple[IndexFile, ...]
    releases: Mapping[str, ProjectRelease]


def release_of(file_name: str) -> Version | None:
    """Return the version that a wheel or sdist is of; None for any other file."""
    try:
        return (parse_wheel_filename if file_name.endswith(".whl") else parse_sdist_filename)(file_name)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None


def dump(projects: Mapping[str, Project]) -> bytes:
    """Return the text of projects, sorted: the same bytes for the same content, and no address."""
    content = {
        name: {
            "files": [
                {
                    "name": file.file_name,
                    "sha256": file.sha256,
                    "size": file.size,
                    "requires-python": file.requires_python,
                    "uploaded": file.uploaded,
                }
                for file in sorted(project.files, key=lambda file: file.file_name)
            ],
            "releases": {
                version: {"requires": list(release.requires), "requires-python": release.requires_python}
                for version, release in sorted(project.releases.items())
            },
        }
        for name, project in sorted(projects.items())
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def parse(packed: bytes, name: str) -> dict[str, Project]:
    """Return the projects in a file of frozen metadata, called `name`. Raises InputError."""
    try:
        content = json.loads(unpacked(packed, name))
        return {
            project_name: Project(
                tuple(_file(item) for item in project["files"]),
                {
                    version: ProjectRelease(tuple(release["requires"]), release["requires-python"])
                    for version, release in project["releases"].items()
                },
            )
            for project_name, project in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: not the frozen part of a package index: {error}", "freeze again") from error


def unpacked(content: bytes, name: str) -> bytes:
    """Return the content of the file `name` of frozen metadata, packed by zstd or not. Raises ValueError."""
    import zstandard  # only locking and reports need it

    try:
        return zstandard.ZstdDecompressor().stream_reader(content).read() if name.endswith(".zst") else content
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _file(item: Mapping) -> IndexFile:
    return IndexFile(
        item["name"], _NOWHERE, item["sha256"], item["size"], item["requires-python"], False, item["uploaded"]
    )


def metadata(name: str, version: str, release: ProjectRelease) -> bytes:
    """Return a release's metadata file (PEP 658), as far as a resolver reads it."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {release.requires_python}"] if release.requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in release.requires]
    return "".join(f"{line}\n" for line in lines).encode()


def newest(files: Sequence[IndexFile]) -> list[Version]:
    """Return the versions that these files are of, newest first; releases before pre-releases."""
    versions = {version for file in files if (version := release_of(file.file_name)) is not None}
    return sorted(versions, key=lambda version: (not version.is_prerelease, version), reverse=True)

"""One artefact of a lock: a conda package archive, or a file of a package index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from urllib.parse import urlsplit

import yaml

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.command_name import satenv

CHANNEL_ALIAS = "https://conda.anaconda.org"  # conda's own default for channel names

yaml.representer.SafeRepresenter.add_representer(Address, lambda dumper, address: dumper.represent_str(str(address)))

RELOCK = f"make the lock again: {satenv('lock')}"
_ARCHIVE = re.compile(r"^(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)(?P<ext>\.conda|\.tar\.bz2)$")


@dataclass(frozen=True)
class CondaArtefact:
    """One conda package archive of a lock: exactly these bytes. `size` is in bytes, None when unknown."""

    name: str
    version: str
    build: str
    subdir: str
    channel: Address  # without the subdir
    file_name: str
    url: Address
    sha256: str
    md5: str = ""
    size: int | None = None
    depends: tuple[str, ...] = ()
    relock: str = field(default="", compare=False, repr=False)  # how its lock is made again, "" for the project's

    def __post_init__(self) -> None:
        """Take addresses that are given as text."""
        object.__setattr__(self, "channel", Address(self.channel))
        object.__setattr__(self, "url", Address(self.url))
        object.__setattr__(self, "relock", self.relock or RELOCK)

    @property
    def channel_path(self) -> str:
        """`<channel name>/<subdir>/<file>`: where a mirror keeps the archive."""
        return f"{channel_name(self.channel)}/{self.subdir}/{self.file_name}"


@dataclass(frozen=True)
class PipPin:
    """One file of a package index: name, version and SHA-256. Where it lies is the index's affair."""

    name: str
    version: str
    sha256: str
    file_name: str
    size: int | None = None
    depends: tuple[str, ...] = ()

    def requirement(self) -> str:
        """Return the line of a pip requirements file that admits this file only."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def channel_name(url: str) -> str:
    """Return the folder of a channel below a mirror: the path of its address, or its host where it has none.

    A token in the path, or the variable that stands for one, isn't part of it.
    """
    parts = urlsplit(Address(url))
    return re.sub(r"(^|/)t/\$[^/]+", "", parts.path).strip("/") or parts.hostname or ""


def split_url(url: str) -> tuple[str, str, str]:
    """Split a package URL into channel base URL, subdir and file name, all in their public form."""
    channel, subdir, file_name = Address(url).package()
    return str(channel), subdir, file_name


def split_archive(file_name: str) -> tuple[str, str, str]:
    """Split `name-version-build.conda` into its three parts.

    Raises ValueError when the file name isn't that of a conda package.
    """
    match = _ARCHIVE.match(file_name)
    if not match:
        raise ValueError(f"{file_name!r} is not `name-version-build.conda` or `.tar.bz2`")
    return match["name"], match["version"], match["build"]


def channel_url(channel: str) -> str:
    """Return the base URL of a channel that is written as a name or a URL."""
    return channel.rstrip("/") if "://" in channel else f"{CHANNEL_ALIAS}/{channel}"


def needed_first(depends: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the names of packages in the order in which conda links them, each after what it needs.

    `depends` has the match specs of each package by its name; what isn't among them is of no account.
    """
    needs = {name: {spec.split()[0] for spec in specs} & depends.keys() - {name} for name, specs in depends.items()}
    if "python" in needs:
        needs["python"].discard("pip")  # conda-forge's python and pip name each other
    order: list[str] = []
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
            order += ready
            sorter.done(*ready)
        return order

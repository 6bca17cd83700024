"""A built channel directory, read and proven before anything leaves it: repodata and files must agree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from cogvideo_sat_env.base.artefacts import split_archive, split_url
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.hashing import sha256_file

ENDINGS = (".conda", ".tar.bz2")
_TELLING = ("name", "version", "build", "build_number", "subdir", "depends", "constrains")
BESIDES = frozenset({"ninja"})  # the program on conda-forge, which python-ninja needs and no lock of ours holds
REBUILD = f"build the channel again: {satenv('build')}"


@dataclass(frozen=True)
class BuiltPackage:
    """One package archive of a channel directory. `size` is in bytes."""

    path: Path
    subdir: str
    name: str
    size: int
    sha256: str
    depends: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`<subdir>/<file>`: its place in every channel."""
        return f"{self.subdir}/{self.path.name}"


def read_built(channel: Path, known: Iterable[str] | None = None) -> tuple[BuiltPackage, ...]:
    """Return the packages of the channel directory, each after what it depends on.

    `known` are the names of packages that the known channels provide; None: dependencies are not looked at.
    Raises InputError when it isn't an indexed channel, VerificationError when repodata and files disagree, or a package
    needs one that neither this channel nor the known ones have.
    """
    if not (channel / "noarch" / "repodata.json").is_file():
        raise InputError(
            f"{channel}: not an indexed channel; expected noarch/repodata.json there",
            f"make one with: {satenv('build')}",
        )
    packages: list[BuiltPackage] = []
    for folder in sorted(path for path in channel.iterdir() if path.is_dir() and not path.name.startswith(".")):
        packages += _subdir(folder)
    if not packages:
        raise InputError(f"{channel}: holds no package", REBUILD)
    if known is not None:
        _require_known(channel, packages, set(known))
    return _ordered(packages)


def _subdir(folder: Path) -> list[BuiltPackage]:
    files = {path.name: path for path in sorted(folder.iterdir()) if path.name.endswith(ENDINGS)}
    index = folder / "repodata.json"
    if not index.is_file():
        if files:
            raise VerificationError(f"{folder}: {len(files)} packages and no repodata.json", REBUILD)
        return []
    records = _records(index)
    problems = [f"{name} is in repodata.json, but not there" for name in sorted(set(records) - set(files))]
    problems += [f"{name} is there, but not in repodata.json" for name in sorted(set(files) - set(records))]
    if problems:
        raise VerificationError(f"{folder}: {'; '.join(problems)}", REBUILD)
    return [_package(path, folder.name, records[name]) for name, path in files.items()]


def _records(index: Path) -> dict[str, dict]:
    import zstandard  # only publishing and locking need it

    try:
        plain = unpacked = index.read_bytes()
        data = json.loads(plain)
        records = {**data["packages"], **data["packages.conda"]}
        packed = index.with_name("repodata.json.zst")
        if packed.is_file():
            unpacked = zstandard.ZstdDecompressor().decompressobj().decompress(packed.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise VerificationError(f"{index}: not repodata: {type(error).__name__}: {error}", REBUILD) from error
    if unpacked != plain:
        raise VerificationError(f"{index}.zst: differs from repodata.json", REBUILD)
    return records


def _package(path: Path, subdir: str, record: dict) -> BuiltPackage:
    size = path.stat().st_size
    if size != record.get("size"):
        raise VerificationError(f"{path}: expected {record.get('size')} bytes (repodata.json), found {size}", REBUILD)
    sha256 = sha256_file(path)
    if sha256 != record.get("sha256"):
        raise VerificationError(
            f"{path}: expected sha256 {record.get('sha256')} (repodata.json), found {sha256}", REBUILD
        )
    found = _inside(path)
    for key in _TELLING:
        if (found.get(key) or None) != (record.get(key) or None):
            raise VerificationError(
                f"{path}: repodata.json says {key} {record.get(key)!r}, the package itself {found.get(key)!r}", REBUILD
            )
    return BuiltPackage(path, subdir, str(record["name"]), size, sha256, tuple(record.get("depends") or ()))


def _inside(path: Path) -> dict:
    """Return info/index.json of the package, as rattler writes it."""
    from rattler import IndexJson  # the engine loads slowly

    try:
        index = IndexJson.from_package_archive(path)
    except Exception as error:  # whatever the engine says is wrong with the archive
        raise VerificationError(f"{path}: not a conda package: {error}", REBUILD) from error
    plain = {key: getattr(index, key) for key in ("build_number", "subdir", "depends", "constrains")}
    return {"name": index.name.normalized, "version": str(index.version), "build": str(index.build), **plain}


def _require_known(channel: Path, packages: Sequence[BuiltPackage], known: set[str]) -> None:
    known |= {package.name for package in packages}
    for package in packages:
        for dependency in package.depends:
            name = dependency.split()[0].lower()
            if "::" in name or "://" in name:
                raise VerificationError(
                    f"{package.path}: needs {dependency!r}: a dependency that names its channel ties every user to it",
                    "write the name alone in the recipe",
                )
            if not name.startswith("__") and name not in known:
                raise VerificationError(
                    f"{package.path}: needs {dependency!r}, which is neither in {channel} nor in the locks of the "
                    "known channels",
                    "build it into the channel as well, or add it to environment.yml and relock",
                )


def _ordered(packages: Sequence[BuiltPackage]) -> tuple[BuiltPackage, ...]:
    """Sort so that an upload that is cut short never leaves a package without what it needs."""
    by_name: dict[str, list[BuiltPackage]] = {}
    for package in sorted(packages, key=lambda package: package.key):
        by_name.setdefault(package.name, []).append(package)
    needed = {
        name: {d.split()[0] for package in group for d in package.depends} & set(by_name) - {name}
        for name, group in by_name.items()
    }
    try:
        names = tuple(TopologicalSorter(needed).static_order())
    except CycleError:
        names = tuple(by_name)  # packages that need each other: no order is better than another
    return tuple(package for name in names for package in by_name[name])


def locked_names(root: Path) -> set[str]:
    """Return the names of all conda packages in the project's explicit lockfiles: what the known channels provide."""
    names = set(BESIDES)
    for path in sorted((root / "locks").glob("conda-*.lock")):
        for line in path.read_text(encoding="utf-8").splitlines():
            url = line.partition("#")[0]
            if "://" in url:
                names.add(split_archive(split_url(url)[2])[0])
    return names

"""A lock as typed values, read from conda-lock.yml (conda-lock's format, version 1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import RELOCK, CondaArtefact, PipPin, split_archive
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.spec.variants import Variant

WHAT = "a conda-lock file (format version 1)"
WHEELHOUSE = "${SATENV_WHEELHOUSE}"  # stands for the folder or site that holds the pip files; pip expands it
Document = tuple[Any, yamlfile.Lines]  # the values of a lock as they stand there, and the lines of them
_INSTALLED = ("main", "dev")  # categories that `conda-lock install` takes unless told otherwise
_PIXI = (
    "pixi writes locks of its own: pixi workspace export conda-environment environment.yml, then make a lock of that "
    "file with conda-lock lock -f environment.yml"
)
_Item = TypeVar("_Item", CondaArtefact, PipPin)


@dataclass(frozen=True)
class Lock:
    """The solution for one platform."""

    path: Path
    platform: str
    channels: tuple[Address, ...]
    content_hash: str
    conda: tuple[CondaArtefact, ...]
    pip: tuple[PipPin, ...]

    @property
    def files(self) -> tuple[CondaArtefact | PipPin, ...]:
        """Everything that it locks."""
        return (*self.conda, *self.pip)


def lock_platforms(path: Path, document: Document | None = None) -> tuple[str, ...]:
    """Return the platforms that the lock at `path` has solutions for; `document` as in read_lock. Raises InputError."""
    data, lines = document or load_lock(path)
    if not isinstance(data, dict) or data.get("version") != 1:
        if isinstance(data, dict) and "environments" in data and "packages" in data:
            raise InputError(f"{path}: is a lock of pixi (version {data.get('version')!r}); expected {WHAT}", _PIXI)
        if isinstance(data, dict) and "dependencies" in data:
            raise InputError(
                f"{path}: is an environment file; expected {WHAT}", f"make a lock of it: conda-lock lock -f {path}"
            )
        if data is None:
            found = "an empty file"
        elif isinstance(data, dict) and "version" in data:
            found = f"version {data['version']!r}"
        else:
            found = "a file without a version"
        raise InputError(f"{path}:{lines.of('version')}: expected {WHAT}; found {found}", remedy(path))
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("platforms"), list):
        raise InputError(f"{path}:{lines.of('metadata')}: expected metadata with a list of platforms", remedy(path))
    return tuple(map(str, metadata["platforms"]))


def remedy(path: Path) -> str:
    """Return how the lock at `path` is made again: by us, or by whoever made it."""
    try:
        if path.resolve().is_relative_to(project_root().resolve()):
            return RELOCK
    except InputError:  # no project here: inside a bundle
        pass
    return "make that lock again with conda-lock lock (1.0 or newer), or correct the entry in what it is made from"


def load_lock(path: Path) -> Document:
    """Read the YAML of the lock at `path`. Raises InputError when it can't be read."""
    try:
        return yamlfile.load(path, WHAT)
    except InputError as error:
        if _is_explicit(path):
            raise InputError(
                f"{path}: is an explicit lockfile; expected {WHAT}",
                "name the conda-lock.yml that it was rendered from; explicit files are for mamba create --file",
            ) from error
        raise


def _is_explicit(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return b"\n@EXPLICIT" in b"\n" + stream.read(4096)
    except OSError:
        return False


def read_lock(path: Path, platform: str, sizes: dict[str, int] | None = None, document: Document | None = None) -> Lock:
    """Read the solution for `platform` from the lock at `path`; `sizes` gives bytes by SHA-256.

    `document` is what load_lock gave for that file, for who wants several platforms of it.
    Raises InputError with file and line when the file is malformed or has no solution for the platform.
    """
    document = document or load_lock(path)
    platforms = lock_platforms(path, document)
    data, lines = document
    if platform not in platforms:
        raise InputError(
            f"{path}: holds no solution for {platform}; it has {', '.join(platforms) or 'none'}",
            "choose one of those with --platform, or see the README for the other variants' locks",
        )
    if not isinstance(data.get("package"), list):
        raise InputError(f"{path}:{lines.of('package')}: expected a list of packages under 'package'", remedy(path))
    sizes, again = sizes or {}, remedy(path)
    conda: list[CondaArtefact] = []
    pip: list[PipPin] = []
    for index, entry in enumerate(data["package"]):
        where = f"{path}:{lines.of('package', index)}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: a package must be a mapping", again)
        if entry.get("platform") != platform or entry.get("category", "main") not in _INSTALLED:
            continue
        item = _parse_entry(where, entry, sizes, again)
        if isinstance(item, CondaArtefact):
            conda.append(item)
        elif item is not None:
            pip.append(item)
    conda, pip = _once(path, conda), _once(path, pip)
    metadata = data["metadata"]
    for key, kind, name in (("channels", list, "list"), ("content_hash", dict, "mapping")):
        if not isinstance(metadata.get(key) or kind(), kind):
            raise InputError(f"{path}:{lines.of('metadata', key)}: '{key}' must be a {name}", again)
    channels = tuple(Address(str(c.get("url", ""))) for c in metadata.get("channels") or [] if isinstance(c, dict))
    content_hash = str((metadata.get("content_hash") or {}).get(platform, ""))
    return Lock(path, platform, channels, content_hash, tuple(conda), tuple(pip))


def read_locks(
    root: Path, variants: Iterable[Variant], sizes: dict[str, int] | None = None
) -> list[tuple[Variant, Lock]]:
    """Read the solutions for `variants` from their locks below `root`, each file once; see read_lock."""
    documents: dict[str, Document] = {}
    found = []
    for variant in variants:
        path = root / variant.lock
        if variant.lock not in documents:  # YAML is most of the time
            documents[variant.lock] = load_lock(path)
        found.append((variant, read_lock(path, variant.platform, sizes, documents[variant.lock])))
    return found


def _once(path: Path, items: list[_Item]) -> list[_Item]:
    """Drop the repetitions of a package that stands in several categories. Raises InputError for two of one name."""
    found: dict[str, _Item] = {}
    for item in items:
        other = found.setdefault(item.name, item)
        if (other.sha256, other.file_name) != (item.sha256, item.file_name):
            raise InputError(f"{path}: has {item.name} twice: {other.file_name} and {item.file_name}", remedy(path))
    return list(found.values())


def _parse_entry(where: str, entry: dict, sizes: dict[str, int], again: str) -> CondaArtefact | PipPin | None:
    """Return what one entry names; None for a virtual package. `again` is how the lock is made again."""
    for key in ("name", "version", "manager", "url"):
        _require_text(where, entry, key, again)
    name, manager, url = entry["name"], entry["manager"], Address(entry["url"])
    if manager == "conda" and name.startswith("__"):
        return None  # of the machine that it was locked for
    sha256, md5 = _hashes(where, entry, url, again)
    dependencies = entry.get("dependencies") or {}
    if not isinstance(dependencies, dict):
        raise InputError(f"{where}: 'dependencies' of {name} must map names to versions", again)
    depends = tuple(f"{dep} {bound}".strip() for dep, bound in sorted(dependencies.items()))
    channel, subdir, file_name = url.package()
    if manager == "pip":
        return PipPin(name, entry["version"], sha256, file_name, sizes.get(sha256), depends)
    if manager != "conda":
        raise InputError(f"{where}: {name}: manager must be conda or pip, not {manager!r}", again)
    try:
        found, version, build = split_archive(file_name)
    except ValueError as error:
        raise InputError(f"{where}: {error}", again) from error
    if subdir not in (entry["platform"], "noarch"):
        platform = entry["platform"]
        raise InputError(f"{where}: {name} is for {platform!r}, but its URL is in the subdir {subdir!r}", again)
    if found != name or version != entry["version"]:
        raise InputError(f"{where}: {name} {entry['version']} has the URL of {found} {version}", again)
    return CondaArtefact(
        name, version, build, subdir, channel, file_name, channel / f"{subdir}/{file_name}", sha256, md5,
        sizes.get(sha256), depends, again,
    )  # fmt: skip


def _require_text(where: str, entry: dict, key: str, again: str) -> None:
    value = entry.get(key)
    if isinstance(value, str) and value:
        return
    if value is None or value == "" or isinstance(value, (dict, list)):
        raise InputError(f"{where}: package {entry.get('name')!r} has no '{key}'", again)
    raise InputError(
        f"{where}: {key} of package {str(entry.get('name'))!r} stands without quotes: YAML reads it as {value!r}, "
        "and 1.10 as 1.1",
        f"put it into quotes there: {key}: '…', as conda-lock does",
    )


def _hashes(where: str, entry: dict, url: Address, again: str) -> tuple[str, str]:
    """Return SHA-256 and MD5 ("" where there is none) of an entry. Raises InputError without a SHA-256."""
    hashes = entry["hash"] if isinstance(entry.get("hash"), dict) else {}
    sha256, md5 = (str(hashes.get(kind) or "").strip().lower() for kind in ("sha256", "md5"))
    if re.fullmatch(r"[0-9a-f]{64}", sha256):
        return sha256, md5
    name = entry["name"]
    if re.match(r"(git|hg|svn|bzr)\+", url):
        raise InputError(
            f"{where}: {name} is from git ({url}): a commit proves no file",
            f"put a released version or a wheel of {name} in its place in what the lock is made from, and lock again",
        )
    if not sha256 and md5:
        raise InputError(
            f"{where}: {name} has no SHA-256, only an MD5, which proves nothing",
            "lock again with conda-lock 1.0 or newer, from a channel whose repodata.json has SHA-256 (conda index "
            "writes them)",
        )
    raise InputError(f"{where}: {name} has no SHA-256; expected 64 hex digits, found {sha256!r}", again)


def public_text(path: Path) -> str:
    """Return the lock at `path` without the secrets in its addresses: for copies that others get.

    What holds none is returned as it is. Raises InputError when one can't be taken out.
    """
    text = path.read_text(encoding="utf-8")
    secret = {url: address for url in _addresses(load_lock(path)[0]) if (address := Address(url)).secrets()}
    for url in sorted(secret, key=len, reverse=True):
        text = text.replace(url, str(secret[url]))
    for address in secret.values():
        if any(word in text for word in address.secrets() if len(word) > 3):
            raise InputError(
                f"{path}: a secret of {address} can't be taken out", "write a variable for it there: $NAME"
            )
    return text


def _addresses(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        if "://" in data:
            yield data
    elif isinstance(data, (dict, list)):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _addresses(value)

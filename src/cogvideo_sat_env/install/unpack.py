"""Extracts one verified archive into the package cache and proves what came out of it.

rattler extracts: it never writes through a link or out of the folder, and makes no device nodes. What is ours is to
compare the result with the package's own list, so that nothing is missing, and to say so.
"""

from __future__ import annotations

import bz2
import filecmp
import os
import shutil
import stat
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

from filelock import FileLock
from rattler.package_streaming import extract
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.files import remove, set_folder_modes
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.permissions import shared_mode, umask
from cogvideo_sat_env.install import archive_size, package_info, package_manifest
from cogvideo_sat_env.install.package_manifest import PackageManifest


def unpack(archive: str, packages: str, key: str, sha256: str, named: Sequence[str], compare: bool) -> None:
    """Make `packages`/`key` hold the extracted `archive`, with its manifest beside it, unless another process just has.

    It has to be what the lock says: `sha256`, and `named`: name, version, build. With `compare` what is there is
    compared with the archive, byte by byte, and its manifest isn't believed.
    Raises VerificationError for an archive that isn't what the lock or its own list of files says, OSError as it comes.
    """
    place = Path(packages)
    folder, recorded = place / key, package_manifest.manifest_path(place, key)
    manifest = PackageManifest(folder, sha256, os.stat(archive).st_size)
    with FileLock(place / f"{key}.lock", mode=0o666 & ~umask()):
        scratch, gone = place / f".{key}.partial", place / f".{key}.gone"
        for left in (scratch, gone):  # of a killed run: whoever holds the lock is alone
            remove(left)
        known = None if compare else package_manifest.read(recorded)
        if known == manifest and package_manifest.changed(recorded, folder) is None:
            return
        try:
            _extract(Path(archive), sha256, scratch, gone)
            _normalize_modes(scratch)
            index = package_info.check(scratch, key)
            if [index["name"], index["version"], index["build"]] != named:
                raise VerificationError(
                    f"{key}: expected {' '.join(named)}, found {index['name']} {index['version']} {index['build']}",
                    "the lock was changed by hand or the channel renamed a package: make the lock again",
                )
            found = dict(package_manifest.walk(str(scratch)))
            paths = package_manifest.read_paths(scratch)
            _require_as_listed(key, found, paths)
            recorded.unlink(missing_ok=True)
            if compare and folder.is_dir() and _is_same(scratch, folder, found):
                found = dict(package_manifest.walk(str(folder)))
            else:
                if os.path.lexists(folder):
                    folder.rename(gone)
                scratch.rename(folder)
            package_manifest.write(recorded, manifest, found, paths)
        finally:
            remove(scratch)
            remove(gone)


def _normalize_modes(folder: Path) -> None:
    """Give files the modes that they have in every prefix, whatever the archive and the umask say; folders the umask's.

    Bits like setuid go: they would be another user's in the prefix.
    """
    set_folder_modes(folder, 0o777 & ~umask())
    for name, found in package_manifest.walk(str(folder)):
        if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) != shared_mode(found.st_mode):
            os.chmod(folder / name, shared_mode(found.st_mode))


def _is_same(fresh: Path, folder: Path, found: Mapping[str, os.stat_result]) -> bool:
    """Whether `folder` holds the same files as the `fresh` one, which has `found`: names, kinds, modes and bytes."""
    there = dict(package_manifest.walk(str(folder)))
    owner = folder.stat().st_uid
    if there.keys() != found.keys() or owner not in (0, os.geteuid()):
        return False
    for name, right in found.items():
        if there[name].st_mode != right.st_mode or there[name].st_uid != owner:
            return False
        if stat.S_ISLNK(right.st_mode):
            if os.readlink(fresh / name) != os.readlink(folder / name):
                return False
        elif not filecmp.cmp(fresh / name, folder / name, shallow=False):
            return False
    return True


def _extract(archive: Path, expected: str, scratch: Path, spare: Path) -> None:
    """Extract `archive`, which has the `expected` SHA-256, into the new folder `scratch`.

    `spare` is a path for another folder, where one is needed.
    """
    try:
        archive_size.require_bounded(archive)
        scratch.mkdir()
        try:
            sha256 = extract(archive, scratch)[0].hex()
        except (OSError, RuntimeError) as error:
            if "ermission denied" not in str(error) or not os.access(scratch, os.W_OK | os.X_OK):
                raise
            # a folder member whose mode keeps out its owner, unless that is root: rattler obeys it at once
            sha256 = sha256_file(archive)
            remove(scratch)
            spare.mkdir()
            extract(_with_open_folders(archive, spare), scratch)
            remove(spare)
    except (ZstdError, BadZipFile, EOFError, ValueError, RuntimeError, OSError) as error:
        is_full = "space left" in str(error) or "quota" in str(error)
        if isinstance(error, OSError) and (error.errno is not None or is_full):
            raise
        raise VerificationError(
            f"{archive}: has the SHA-256 of the lock but is no readable conda package: {error}",
            "tell the channel; a lock that names another build of the package gets by without it",
        ) from error
    if sha256 != expected:
        raise VerificationError(
            f"{archive}: expected SHA-256 {expected}, found {sha256} while it was extracted",
            "something changes the cache while it is used: choose another with SATENV_CACHE",
        )


def _with_open_folders(archive: Path, folder: Path) -> Path:
    """Return a copy of `archive` in `folder` that differs in the modes of its folder members alone.

    Raises OSError, BadZipFile, ZstdError, ValueError (no tar).
    """
    copy = folder / archive.name
    try:
        if archive.name.endswith(".tar.bz2"):
            with bz2.open(archive) as source, bz2.open(copy, "wb", compresslevel=1) as target:
                _open_members(source, target)
            return copy
        with ZipFile(archive) as old, ZipFile(copy, "w") as new:
            for name in old.namelist():
                with old.open(name) as source, new.open(name, "w", force_zip64=True) as target:
                    if name.endswith(".tar.zst"):
                        unpacked = ZstdDecompressor().stream_reader(source, read_across_frames=True)
                        with ZstdCompressor(1).stream_writer(target, closefd=False) as packed:
                            _open_members(unpacked, packed)
                    else:
                        shutil.copyfileobj(source, target)
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error
    return copy


def _open_members(source: BinaryIO, target: BinaryIO) -> None:
    with tarfile.open(fileobj=source, mode="r|") as old, tarfile.open(fileobj=target, mode="w|") as new:
        for member in old:
            if member.isdir():
                member.mode = 0o755
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _require_as_listed(key: str, found: Mapping[str, os.stat_result], paths: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for entry in paths:
        name, kind = str(entry["_path"]), entry.get("path_type")
        if name.startswith("/") or (".." in name and ".." in name.split("/")):
            raise VerificationError(f"{key}: holds {name!r}, a path out of any prefix", "tell its channel")
        if name in seen:
            raise VerificationError(f"{key}: lists {name!r} twice", "tell its channel")
        seen.add(name)
        if kind == "directory":
            continue
        there = found.get(name)
        if there is None:
            raise VerificationError(f"{key}: lists {name!r} but doesn't hold it", "tell its channel")
        is_link = stat.S_ISLNK(there.st_mode)
        size = entry.get("size_in_bytes")
        if is_link != (kind == "softlink") or (not is_link and size is not None and size != there.st_size):
            what = "a link" if is_link else f"a file of {there.st_size:,} bytes"
            listed = "a link" if kind == "softlink" else "a file" if size is None else f"a file of {size:,} bytes"
            raise VerificationError(
                f"{key}: {name!r} is {what}, its own list says {listed}: a member may be there twice",
                "don't use this package; tell its channel",
            )

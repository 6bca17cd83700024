"""The base of an image: the root file system that the user names, as a folder or as a tar archive."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias

import zstandard

from cogvideo_sat_env.base.errors import InputError

_EMPTY = {"proc", "sys", "dev", "run", "tmp", "var/tmp"}  # what a container gets at its start, or needs empty
_LINKS = 40  # more are a circle, as Linux says
_NO_END = (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError)  # type: ignore[attr-defined]
_REMEDY = "name a root file system: a folder as debootstrap makes it, or a tar archive of one"


def open_base(path: Path) -> BaseImage:
    """Return the base at `path`. Raises InputError for what is no root file system."""
    if path.is_dir():
        if (path / "oci-layout").exists():
            raise InputError(f"{path}: is an image, not a root file system", f"unpack it: umoci unpack; {_REMEDY}")
        found: BaseImage = _Folder(path)
    elif path.is_file():
        found = _read_archive(path)
    else:
        raise InputError(f"{path}: no such file or folder", _REMEDY)
    if resolve(found, "/bin/sh") is None:
        raise InputError(f"{path}: has no /bin/sh; the environment is activated by a shell", _REMEDY)
    return found


def resolve(base: BaseImage, path: str) -> str | None:
    """Return `path` with every link on the way followed inside of `base`; None where nothing is there."""
    done, todo = "/", [part for part in path.split("/") if part]
    for _ in range(_LINKS * 10):
        if not todo:
            return done
        part = todo.pop(0)
        here = posixpath.normpath(posixpath.join(done, part))
        kind = base.kind(here)
        if kind is None:
            return None
        if kind == "link":
            target = base.link(here)
            todo = [piece for piece in target.split("/") if piece] + todo
            done = "/" if target.startswith("/") else done
        else:
            done = here
    return None


@dataclass(frozen=True)
class _Folder:
    """A root file system in a folder."""

    path: Path

    def _at(self, path: str) -> Path:
        return self.path / path.lstrip("/")

    def kind(self, path: str) -> str | None:
        """Return what is at an absolute path of it: "dir", "file", "link" (itself, not followed); None for nothing."""
        try:
            mode = os.lstat(self._at(path)).st_mode
        except OSError:
            return None
        return "link" if stat.S_ISLNK(mode) else "dir" if stat.S_ISDIR(mode) else "file"

    def link(self, path: str) -> str:
        """Return where the link at `path` leads."""
        return os.readlink(self._at(path))

    def add_to(self, archive: tarfile.TarFile) -> None:
        """Add all of it to a layer. Raises InputError, OSError."""
        archive.inodes = {}  # type: ignore[attr-defined] - hard links inside of the base only
        for folder, names, files in os.walk(self.path, onerror=_refuse):
            names.sort()
            inside = os.path.relpath(folder, self.path)
            inside = "" if inside == "." else f"{inside}/"
            for name in sorted([*names, *files]):
                mode = os.lstat(f"{folder}/{name}").st_mode
                if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                    continue
                _refuse_whiteout(f"{folder}/{name}")
                info = archive.gettarinfo(f"{folder}/{name}", f"{inside}{name}")
                info.uname = info.gname = ""
                info.mtime = int(info.mtime)
                if info.isreg():
                    try:
                        with open(f"{folder}/{name}", "rb") as stream:
                            archive.addfile(info, stream)
                    except PermissionError as error:
                        raise InputError(
                            f"{error.filename}: can't be read by this user; the base has to be whole",
                            "run it as root, or name an archive of the base",
                        ) from error
                else:
                    archive.addfile(info)
            names[:] = [name for name in names if f"{inside}{name}" not in _EMPTY]


@dataclass(frozen=True)
class _Archive:
    """A root file system in an archive; methods as those of _Folder."""

    path: Path
    kinds: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def kind(self, path: str) -> str | None:
        return "dir" if path == "/" else self.kinds.get(path)

    def link(self, path: str) -> str:
        return self.links[path]

    def add_to(self, archive: tarfile.TarFile) -> None:
        with _opened(self.path) as given:
            for member in given:
                if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                    continue
                name = _inside(member.name).lstrip("/")
                if not name or any(name.startswith(f"{empty}/") for empty in _EMPTY):
                    continue
                member.name, member.uname, member.gname, member.mtime = name, "", "", int(member.mtime)
                member.pax_headers = {}
                if member.islnk():
                    member.linkname = _inside(member.linkname).lstrip("/")
                archive.addfile(member, given.extractfile(member) if member.isreg() else None)


BaseImage: TypeAlias = _Folder | _Archive


def _read_archive(path: Path) -> _Archive:
    found = _Archive(path)
    try:
        with _opened(path) as archive:
            for member in archive:
                name = _inside(member.name)
                if name in ("/oci-layout", "/manifest.json"):
                    raise InputError(f"{path}: is an image, not a root file system", _REMEDY)
                _refuse_whiteout(name)
                found.kinds[name] = "link" if member.issym() else "dir" if member.isdir() else "file"
                if member.issym():
                    found.links[name] = member.linkname
                for parent in PurePosixPath(name).parents:
                    found.kinds.setdefault(str(parent), "dir")
    except (tarfile.TarError, EOFError, zstandard.ZstdError) as error:
        raise InputError(f"{path}: is no whole tar archive: {error}", _REMEDY) from error
    return found


class _Member(tarfile.TarInfo):
    """A member of an archive that has to end with its end mark: tarfile takes any other end, past the first, for it."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:  # type: ignore[override]
        try:
            return super().fromtarfile(archive)
        except _NO_END as error:
            raise tarfile.ReadError(str(error) or "it ends without an end mark") from error


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive: plain, or by gzip, bzip2, xz or zstd."""
    with open(path, "rb") as raw:
        packed = raw.read(4) == b"\x28\xb5\x2f\xfd"
        raw.seek(0)
        stream: IO[bytes] = zstandard.ZstdDecompressor().stream_reader(raw) if packed else raw  # type: ignore[assignment]
        with tarfile.open(fileobj=stream, mode="r|" if packed else "r|*", tarinfo=_Member) as archive:
            yield archive


def _inside(name: str) -> str:
    """Return a member's name as an absolute path. Raises InputError for one that leads out."""
    if ".." in name.split("/"):
        raise InputError(f"{name!r}: a member of the base leads out of it", _REMEDY)
    return posixpath.normpath(f"/{name}").replace("//", "/")


def _refuse_whiteout(path: str) -> None:
    if posixpath.basename(path).startswith(".wh."):
        raise InputError(f"{path}: a name that begins with .wh. means a deletion in a layer", "remove it from the base")


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}; the base has to be whole", "run it as root") from error

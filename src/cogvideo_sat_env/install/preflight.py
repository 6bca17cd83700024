"""What is asked of prefix, cache and TMPDIR before the first byte is fetched, converted or proven."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.complete import noexec
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.install import receipt, staging

NAME_MAX = 255 - len("..satenv-trash-01234567")  # bytes: the siblings' names must fit the file system, too
PATH_MAX = 4095 - 1024  # bytes, as Linux has it, less what the files below it take
_CHOOSE = "choose another prefix with -p"


def require_platform(platform: str) -> None:
    """Raise InputError for a platform that isn't this machine's."""
    if platform != current_platform():
        raise InputError(
            f"the lock is for {platform}; this machine is {current_platform()}",
            "create the environment on a machine of that platform, or choose another --platform",
        )


def require_prefix(prefix: Path) -> None:
    """Raise PrefixError for a prefix that can't be, or that holds what isn't ours."""
    _require_name(prefix)
    if prefix.is_symlink():
        raise PrefixError(f"{prefix}: is a symbolic link to {os.readlink(prefix)}", "name the directory itself with -p")
    if prefix.exists() and not prefix.is_dir():
        raise PrefixError(f"{prefix}: is a file, not a directory", _CHOOSE)
    nearest = diskspace.existing(staging.home(prefix))
    if not nearest.is_dir():
        raise PrefixError(f"{nearest}: is a file; {prefix} can't be made below it", _CHOOSE)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PrefixError(f"{nearest}: not writable; {prefix} can't be made", _CHOOSE)
    try:
        probe = Path(tempfile.mkdtemp(dir=nearest, prefix=f".{prefix.name}.satenv-new-"))  # root may be refused, too
        probe.rmdir()
    except OSError as error:
        if error.errno in diskspace.FULL:
            raise diskspace.full(nearest, "the environment") from error
        raise PrefixError(f"{nearest}: {error.strerror}; {prefix} can't be made there", _CHOOSE) from error
    _require_exec(nearest, f"{prefix}: nothing in it could be started", _CHOOSE)
    if not staging.is_free(prefix) and receipt.read(prefix) is None:
        kind = "a conda environment that this program didn't make" if (prefix / "conda-meta").is_dir() else "not empty"
        raise PrefixError(f"{prefix}: is {kind}; it is left alone", _CHOOSE)


def _require_name(prefix: Path) -> None:
    text = str(prefix)
    try:
        length = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise PrefixError(f"{text!r}: a prefix must be UTF-8; scripts and records couldn't name it", _CHOOSE) from error
    if not prefix.name or len(prefix.name.encode("utf-8")) > NAME_MAX:
        raise PrefixError(f"{prefix}: its last part must have 1 to {NAME_MAX} bytes", _CHOOSE)
    if length > PATH_MAX or any(len(part.encode("utf-8")) > 255 for part in prefix.parts):
        raise PrefixError(f"{text[:80]}…: {length} bytes are too long for a prefix", _CHOOSE)
    if ":" in text or any(not character.isprintable() for character in text):
        raise PrefixError(f"{text!r}: a prefix can't hold control characters or ':' (PATH)", "choose another with -p")


def require_places(cache: Path) -> None:
    """Raise PrefixError for a cache or a folder for temporary files that can't be used."""
    nearest = diskspace.existing(cache)
    if not nearest.is_dir():
        raise PrefixError(f"{nearest}: is a file, not a directory", "choose another cache with SATENV_CACHE")
    _require_exec(nearest, f"{cache}: the tools and what is built there couldn't be started", "set SATENV_CACHE")
    try:
        with tempfile.TemporaryFile() as stream:
            stream.write(b"x")
            stream.flush()
    except OSError as error:
        where = tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"
        if error.errno in diskspace.FULL:
            raise PrefixError(f"{where}: no space left for temporary files", "free some, or set TMPDIR") from error
        raise PrefixError(f"{where}: no temporary file can be made: {error.strerror or error}", "set TMPDIR") from error


def require_writable_cache(cache: Path, what: str) -> None:
    """Raise PrefixError unless `what` can be written to `cache`."""
    nearest = diskspace.existing(cache)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PrefixError(f"{nearest}: not writable; {what} can't be kept there", "choose another with SATENV_CACHE")
    diskspace.require(cache, 64 * 1024 * 1024, what)


def _require_exec(folder: Path, why: str, remedy: str) -> None:
    if noexec(folder):
        raise PrefixError(f"{why}: the file system of {folder} is mounted noexec", remedy)

"""Modes of files, and whether others can write to a folder. Python's standard library only.

A prefix's own files follow the umask. Files of the package cache are hard-linked into many prefixes, so their modes are
the same whatever the umask: 0644 or 0755. Nothing in a cache can be written by others than its owner, or it isn't used
(as OpenSSH's StrictModes judges).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cogvideo_sat_env.base.errors import PrefixError

TRUST = "SATENV_TRUST_SHARED_CACHE"
SHARED_FILE, SHARED_PROGRAM = 0o644, 0o755  # modes of what is hard-linked into prefixes
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def umask() -> int:
    """Return the umask of this process, without changing it where the kernel can be asked."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    found = os.umask(0o077)
    os.umask(found)
    return found


@contextmanager
def under_umask(mask: int) -> Iterator[None]:
    """Have the umask `mask` in the block: for the whole process, and for processes started in the block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def cache_umask() -> AbstractContextManager[None]:
    """Have what is made in the block writable by its owner alone, unless the cache is shared on purpose."""
    mask = umask()
    return under_umask(mask if shared_on_purpose() else mask | _OTHERS_WRITE)


def own_mode(mode: int, mask: int) -> int:
    """Return the mode that a file of `mode` gets in a prefix made under the umask `mask`."""
    return (0o777 if mode & stat.S_IXUSR else 0o666) & ~mask


def shared_mode(mode: int) -> int:
    """Return the mode that a file of `mode` (in its archive) gets in the package cache."""
    return SHARED_PROGRAM if mode & stat.S_IXUSR else SHARED_FILE


def shared_on_purpose() -> bool:
    """Tell whether the site says that it trusts everybody who can write to the cache."""
    return os.environ.get(TRUST, "") not in ("", "0")


def only_owner_writes(found: os.stat_result) -> bool:
    """Tell whether this user or root alone could have written a file or folder, or whoever could is trusted."""
    if shared_on_purpose():
        return True
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & _OTHERS_WRITE


def require_private(cache: Path, *inside: Path) -> None:
    """Raise PrefixError when others than this user and root can write to `cache` or the folders `inside` it."""
    why = None if shared_on_purpose() else why_untrusted(cache, *inside)
    if why:
        raise PrefixError(
            f"{why}: whoever can write to the cache decides what is in the environments made from it",
            "take the permission away (chmod -R go-w) and delete what you don't know, name another cache in "
            f"SATENV_CACHE, or set {TRUST}=1 where everybody who can write there is trusted",
        )


def why_untrusted(cache: Path, *inside: Path, owner: int | None = None) -> str | None:
    """Say who else can write to `cache`, to a folder that it lies in, or to the folders `inside` it; None if nobody.

    Folders count as safe that belong to this user, root or `owner` and that nobody else can write to. Above the
    cache, a folder with the sticky bit is as safe. Folders that aren't there are passed over.
    """
    owners = {0, os.geteuid(), *([] if owner is None else [owner])}
    for folder in (*inside, cache):
        if (why := _why(folder, owners)) is not None:
            return why
    foreign = owners | _unmapped()
    for folder in Path(os.path.realpath(cache)).parents:
        if (why := _why(folder, foreign, sticky=True)) is not None:
            return why
    return None


def _why(folder: Path, owners: set[int], sticky: bool = False) -> str | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None  # not there, or not to be seen: whoever works in it gets the error
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in owners:
        return f"{folder}: belongs to {_name('uid', found.st_uid)}, not to you"
    if sticky and mode & stat.S_ISVTX:
        return None
    if mode & stat.S_IWOTH:
        return f"{folder}: everybody can write to it (mode {mode:04o})"
    if mode & stat.S_IWGRP and not _is_private_group(found.st_gid, found.st_uid):
        return f"{folder}: the group {_name('gid', found.st_gid)} can write to it (mode {mode:04o})"
    return None


def _unmapped() -> set[int]:
    """Return the user whom a container (a user namespace) shows for the host's root and all others it doesn't know."""
    try:
        if Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", "4294967295"]:
            return set()
        return {int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))}
    except (OSError, ValueError):
        return set()


def _is_private_group(gid: int, uid: int) -> bool:
    """Whether a group is the user's own (of the same name, with no other member), as many systems give everybody."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and gid == user.pw_gid and not set(group.gr_mem) - {user.pw_name}


def _name(kind: str, number: int) -> str:
    """Return a user (`kind` uid) or a group (gid) as a message names it."""
    import grp
    import pwd

    try:
        return f"{(pwd.getpwuid if kind == 'uid' else grp.getgrgid)(number)[0]} ({kind} {number})"
    except KeyError:
        return f"{kind} {number}"

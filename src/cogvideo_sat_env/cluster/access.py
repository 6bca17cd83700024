"""Who may read and who may change a ROOT: its folders, their group, and the umask while a release is made."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.cluster.root import Root

READERS = 0o022  # umask: everybody reads, whoever's login shell says otherwise
_SHARED = stat.S_ISGID | 0o775


def group_id(name: str | None) -> int | None:
    """Return the number of the group `name`, a number as it stands. Raises InputError where there is none."""
    if name is None:
        return None
    try:
        if name.isdecimal() and int(name) < 2**32 - 1:
            return int(name)
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise InputError(f"--group {name}: this machine knows no such group", "getent group lists them") from error


def prepare(root: Root, group: int | None) -> None:
    """Make ROOT's folders; with `group` its members may change them, too (setgid, group-writable).

    Raises PrefixError where that can't be.
    """
    leases = root.leases.is_dir()
    for folder in (root.path, root.releases, root.modules.parent, root.modules, root.leases):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrefixError(f"{folder}: can't be made: {error.strerror}", "choose another ROOT") from error
        if group is not None and not (leases and folder == root.leases):
            share(folder, group)


def share(folder: Path, group: int) -> None:
    """Give `folder` to `group`, whose members may write there; what is made in it belongs to the group, too."""
    found = folder.stat()
    if found.st_gid == group and stat.S_IMODE(found.st_mode) & _SHARED == _SHARED:
        return
    try:
        os.chown(folder, -1, group)
        os.chmod(folder, stat.S_IMODE(found.st_mode) | _SHARED)
    except OSError as error:
        raise PrefixError(
            f"{folder}: can't be given to the group {group}: {error.strerror}",
            "be a member of the group and the owner of the folder, or have its owner run it once with --group",
        ) from error


def share_release(prefix: Path, group: int) -> None:
    """Let `group` delete a release: its folders are the group's. Its files stay; the package cache has them, too."""
    for folder, _, _ in os.walk(prefix):
        share(Path(folder), group)


def unreachable(prefix: Path) -> list[str]:
    """Say what keeps others than owner and group from the release at `prefix`: a folder above it or its Python."""
    found = []
    python = Path(os.path.realpath(prefix / "bin" / "python"))
    for what, path in (("the release", prefix), (f"its Python, {python}, which has to be on all nodes", python)):
        for folder in filter(Path.is_dir, Path(os.path.realpath(path)).parents):  # an image alone has no folder
            mode = stat.S_IMODE(folder.stat().st_mode)
            if not mode & stat.S_IXOTH:
                found.append(f"{folder} (mode {mode:04o}) keeps others than its owner and group from {what}")
                break
    return found

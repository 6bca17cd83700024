"""Which file system a folder is on (Linux: /proc/self/mountinfo), and whether other machines share it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
_SHARED = re.compile(
    r"(nfs\d?|lustre|gpfs|beegfs\w*|ceph|cifs|smb3?|panfs|wekafs|afs|pvfs2|orangefs|gfs2|ocfs2"
    r"|fuse\.(ceph\S*|sshfs|glusterfs|juicefs|s3fs|gcsfuse|beegfs\S*|rclone|weka\S*))"
)
_IMAGES = re.compile(r"(squashfs|erofs|iso9660|fuse\.squashfuse\S*)")


@dataclass(frozen=True)
class Mount:
    """One mounted file system: where, and its type ("ext4")."""

    point: Path
    kind: str

    @property
    def is_shared(self) -> bool:
        """True when other machines see the same files: slow for many small ones, and they write over each other's."""
        return _SHARED.fullmatch(self.kind) is not None

    @property
    def is_image(self) -> bool:
        """True for a file system in one file, which is quick wherever the file lies."""
        return _IMAGES.fullmatch(self.kind) is not None


def kind_of(path: Path, mountinfo: Path = MOUNTINFO) -> Mount | None:
    """Return the file system that `path` (or its nearest parent that exists) is on; None if the system can't tell."""
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    target = existing(path)
    best: Mount | None = None
    for line in lines:
        mount = _mount(line)
        if mount is None or not target.is_relative_to(mount.point):
            continue
        # of two on one point the later one hides the earlier
        if best is None or len(mount.point.parts) >= len(best.point.parts):
            best = mount
    return best


def existing(path: Path) -> Path:
    """Return `path` without links, or its nearest parent that exists."""
    found = path
    while not os.path.exists(found) and found != found.parent:
        found = found.parent
    return found.resolve()


def _mount(line: str) -> Mount | None:
    """Read one line of mountinfo (proc(5)): fields, optional fields up to "-", type and more."""
    before, _, after = line.partition(" - ")
    fields, kind = before.split(" "), after.partition(" ")[0]
    if len(fields) < 6 or not kind:
        return None
    return Mount(Path(_plain(fields[4])), kind)


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), text)

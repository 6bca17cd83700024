"""ROOT, the folder of a cluster's releases: what lies where in it, and which release is current.

releases/NAME/         a release: a prefix, never changed after it was made; NAME is <date>-<lock hash>
releases/NAME.json     its record (record.py)
current                a symbolic link to releases/NAME, moved by an atomic rename
history.json           which release was current from when on
modules/cogvideo-sat/  modulefiles for Lmod and Environment Modules, one a release and one for `current`
load.sh                the same without modules
leases/                one file for each job that uses a release, where jobs may write there
images/NAME.sqfs       its one-file image, if it has one, and NAME.sqfs.json; the folder may then be missing
stage                  what nodes run to have the image (starter.py)
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.files import replacing, write_atomically
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.cluster.image_facts import ENDING
from cogvideo_sat_env.install import own_files
from cogvideo_sat_env.install.prefix_lock import prefix_lock

MODULE = "cogvideo-sat"  # the name of the modules
HASH = 12  # characters of a lock's SHA-256 in the name of a release
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}-[0-9a-f]{12}(?:\.\d+)?")


@dataclass(frozen=True)
class Root:
    """The paths in ROOT; `path` is absolute, links on the way to it are left as they are."""

    path: Path

    @property
    def releases(self) -> Path:
        """The folder of releases and their records."""
        return self.path / "releases"

    @property
    def current(self) -> Path:
        """The link to the release in use."""
        return self.path / "current"

    @property
    def modules(self) -> Path:
        """The folder of modulefiles; `module use` takes the one above it."""
        return self.path / "modules" / MODULE

    @property
    def leases(self) -> Path:
        """The folder in which jobs say which release they use."""
        return self.path / "leases"

    def prefix(self, name: str) -> Path:
        """Return the prefix of the release `name`."""
        return self.releases / name

    def image(self, name: str) -> Path:
        """Return where the one-file image of the release `name` is, if it has one."""
        return self.path / "images" / f"{name}{ENDING}"

    def has(self, name: str) -> bool:
        """Tell whether the release `name` is there, as a folder or as an image."""
        return self.prefix(name).is_dir() or self.image(name).is_file()

    def is_image_only(self, name: str) -> bool:
        """Tell whether the release `name` is there as an image alone."""
        return self.image(name).is_file() and not os.path.lexists(self.prefix(name))

    def names(self) -> list[str]:
        """Return the names of the releases that have a folder or a record, oldest first."""
        try:
            found = {path.name.removesuffix(".json") for path in self.releases.iterdir()}
        except FileNotFoundError:
            return []
        return sorted(filter(_NAME.fullmatch, found), key=self._age)

    def _age(self, name: str) -> tuple[str, int, str]:
        """Order by day, then by when it was made: a release is never changed, and its receipt was written first."""
        made = 0
        for path in (self.prefix(name) / own_files.RECEIPT, self.image(name)):
            with contextlib.suppress(OSError):
                made = made or path.stat().st_mtime_ns
        return name[:10], made, name

    def current_name(self) -> str | None:
        """Return the release that is current, None where there is none. Raises PrefixError for what isn't our link."""
        if not os.path.lexists(self.current):
            return None
        target = Path(os.readlink(self.current)) if self.current.is_symlink() else None
        if target is None or target.parent != Path("releases") or not _NAME.fullmatch(target.name):
            raise PrefixError(
                f"{self.current}: expected a link to releases/NAME, found {target or 'a file or folder'}",
                "move it away; nothing was changed",
            )
        return target.name

    def require_release(self, name: str) -> None:
        """Raise InputError unless there is a release `name`."""
        if name not in self.names():
            there = ", ".join(self.names()) or "none"
            raise InputError(f"{self.path}: has no release {name!r}; there are: {there}", "name one of them")


def existing_root(path: Path) -> Root:
    """Return ROOT at `path`. Raises InputError for a folder that has no releases."""
    root = Root(Path(os.path.abspath(path)))
    if not root.releases.is_dir():
        raise InputError(
            f"{root.path}: no such folder, or it has no releases; expected one that {satenv('deploy')} has made",
            f"{satenv('deploy', root.path)} makes the first release in it",
        )
    return root


@contextmanager
def changing(root: Root, progress: Progress, break_lock: bool = False) -> Iterator[None]:
    """Hold ROOT's lock, also against other hosts, while `current`, records or modulefiles are changed.

    `break_lock`: also that of a host that gave no sign of life for long. Raises PrefixError for one who may not write.
    """
    if not os.access(root.path, os.W_OK | os.X_OK):
        raise PrefixError(
            f"{root.path}: you can't write there; releases are changed by those who administrate them",
            "ask them, or log in as one of them",
        )
    with prefix_lock(root.current, progress, break_lock=break_lock):
        yield


def history(root: Root) -> list[dict[str, Any]]:
    """Return which release was current from when on: {"release", "time" (Unix seconds), "by", "how"}, oldest first."""
    try:
        found = json.loads((root.path / "history.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{root.path / 'history.json'}: can't be read: {error}", "move it away") from error
    if not isinstance(found, list) or not all(map(_is_entry, found)):
        raise InputError(
            f"{root.path / 'history.json'}: expected a list of releases and times", "move it away; rollback starts anew"
        )
    return found


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("release"), str) and isinstance(entry.get("time"), float)


def previous_name(root: Root) -> str | None:
    """Return the release that `rollback` makes current: the last one before the present one that is still there."""
    current, there = root.current_name(), set(root.names())
    was = (entry["release"] for entry in reversed(history(root)))
    return next((name for name in was if name != current and name in there and root.has(name)), None)


def since(root: Root, when: float) -> set[str]:
    """Return the releases that were current at any time since `when` (Unix seconds)."""
    entries = history(root)
    ends = [entry["time"] for entry in entries[1:]] + [float("inf")]
    found = {entry["release"] for entry, end in zip(entries, ends, strict=True) if end >= when}
    current = root.current_name()
    return found | ({current} if current else set())


def point(root: Root, name: str, by: str, how: str) -> None:
    """Make the release `name` current: one rename. Needs ROOT's lock. Raises OSError."""
    before = root.current_name()
    if before == name:
        return
    with replacing(root.current) as link:
        os.symlink(f"releases/{name}", link)
    entries = history(root)
    now = float(round(datetime.now(timezone.utc).timestamp(), 3))
    if before and (not entries or entries[-1]["release"] != before):
        # a run was killed between link and history: until now either of the two may have been current
        entries.append({"release": before, "time": now, "by": "", "how": ""})
    entries.append({"release": name, "time": now, "by": by, "how": how})
    write_atomically(root.path / "history.json", (json.dumps(entries, indent=1) + "\n").encode())

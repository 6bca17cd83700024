"""The record of a release, ROOT/releases/NAME.json: what it is, who made it, what the doctor found.

schema, release, lock, lock_sha256, variant, source, platform, packages
bytes, files     of the prefix, as they lie there; a file that it shares with the package cache counts
created, by, host, version     when (UTC), by whom, where, with which version of this program
doctor           {"ok", "level", "counts", "failed", "when"}, or null as long as it hasn't judged
pinned           `prune` keeps it
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import PARTIAL, write_atomically
from cogvideo_sat_env.cluster.root import Root
from cogvideo_sat_env.install import receipt
from cogvideo_sat_env.install.package_manifest import walk

SCHEMA = 1
_KINDS: Mapping[str, tuple[type, ...]] = {
    "packages": (int,), "bytes": (int,), "files": (int,), "created": (str,), "by": (str,), "pinned": (bool,),
    "doctor": (dict, type(None)),
}  # fmt: skip


def path(root: Root, name: str) -> Path:
    """Return the path of the record of release `name`."""
    return root.releases / f"{name}.json"


def sweep(root: Root, name: str, before: float) -> None:
    """Remove what runs that were killed while they wrote the record of `name` left; `before` is a time in seconds.

    Needs the release's lock. Raises OSError.
    """
    for left in root.releases.glob(f".{name}.json{PARTIAL[1:]}"):
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < before:  # what is newer may be that of `pin`
                left.unlink()


def read(root: Root, name: str) -> dict[str, Any] | None:
    """Return the record of release `name`, None where it has none. Raises InputError for one that can't be read."""
    try:
        found = json.loads(path(root, name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path(root, name)}: can't be read: {error}", "delete it; deploying the same again writes it anew"
        ) from error
    if (
        not isinstance(found, dict)
        or found.get("schema") != SCHEMA
        or found.get("release") != name
        or not all(isinstance(found.get(key), kind) for key, kind in _KINDS.items())
    ):
        raise InputError(
            f"{path(root, name)}: expected the record of {name}, of schema {SCHEMA}",
            "delete it; deploying the same again writes it anew",
        )
    return found


def write(root: Root, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all. Needs ROOT's lock. Raises OSError."""
    write_atomically(path(root, record["release"]), (json.dumps(record, indent=1) + "\n").encode())


def make(root: Root, name: str) -> dict[str, Any]:
    """Return the record of a release that has just been made, without the doctor's judgement."""
    prefix = root.prefix(name)
    found = receipt.read(prefix)
    if found is None:
        raise InputError(f"{prefix}: has no receipt of this program; expected a release", "remove it, and deploy again")
    sizes = [entry.st_size for _, entry in walk(str(prefix))]
    return {
        "schema": SCHEMA, "release": name, "lock": found.get("lock", ""), "lock_sha256": found.get("lock_sha256", ""),
        "variant": found.get("variant", ""), "source": found.get("source", ""), "platform": found.get("platform", ""),
        "packages": len(found["packages"]) + len(found["pip"]), "bytes": sum(sizes), "files": len(sizes),
        "created": found.get("made", ""), "by": user(), "host": socket.gethostname(), "version": __version__,
        "doctor": None, "pinned": False,
    }  # fmt: skip


def judged(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record keeps of the doctor's report (its JSON)."""
    return {
        "ok": bool(report["ok"]), "level": report["level"], "counts": report["counts"],
        "failed": [result["id"] for result in report["results"] if result["status"] == "failed"],
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip


def passed(record: Mapping[str, Any] | None) -> bool:
    """Tell whether the doctor passed in the release of this record."""
    return bool(record and (record.get("doctor") or {}).get("ok"))


def user() -> str:
    """Return the name of this user, a number where the machine has no name for it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"

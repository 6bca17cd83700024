"""The lock that a prefix was made from, where the project is at hand: does it still say the same?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root


def locked(receipt: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the project's lock is to the receipt, or None without a project (inside an environment) or receipt.

    name  the lock's name in the receipt
    same  whether its bytes are those that the prefix was made from (None: there is no such lock any more)
    pins  files that list its packages one a line: an explicit lockfile, pip pins; none for a lock of the user's own
    """
    name, digest = receipt.get("lock"), receipt.get("lock_sha256")
    if not isinstance(name, str) or not name:
        return None
    try:
        root = project_root()
    except InputError:
        return None
    path = next((path for path in (root / name, root / "locks" / name) if path.is_file()), None)
    if path is None:
        return {"name": name, "same": None, "pins": []}
    same = hashlib.sha256(path.read_bytes()).hexdigest() == digest
    return {"name": name, "same": same, "pins": [str(pins) for pins in _pins(root, path, receipt) if pins.is_file()]}


def _pins(root: Path, lock: Path, receipt: Mapping[str, Any]) -> list[Path]:
    if Path(str(receipt["lock"])).is_absolute():
        return []
    if lock.suffix != ".yml":
        return [lock]  # hash-pinned wheels
    part = lock.stem.removesuffix("conda-lock").rstrip("-")
    if not part:  # the lock of several platforms
        part = str(receipt.get("platform"))
    return [root / "locks" / f"conda-{part}.lock", root / "locks" / f"pip-{part}.txt"]

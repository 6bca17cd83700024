"""The files that this program itself makes in a prefix: no package or wheel may claim their places.

They are written into the staging directory without following any link, and never over a file that is there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from cogvideo_sat_env.base.errors import VerificationError

SOURCED = "activate-cogvideo-sat"  # in bin
RECEIPT = "etc/cogvideo-sat-env/receipt.json"
PENDING = "etc/cogvideo-sat-env/link-scripts-pending"  # in a prefix whose link scripts haven't ended yet
HISTORY = "conda-meta/history"
FROZEN = "conda-meta/frozen"  # conda and mamba refuse to change such a prefix (CEP 22)
STATE = "conda-meta/state"
_FOLDERS = frozenset({"bin", "conda-meta", "etc", "etc/conda", "etc/conda/activate.d", "etc/conda/deactivate.d",
                      "etc/cogvideo-sat-env"})  # fmt: skip
_FILES = frozenset({
    RECEIPT, PENDING, HISTORY, STATE, "CACHEDIR.TAG", "etc/cogvideo-sat-env/activate.py",
    *(f"bin/{SOURCED}{ending}" for ending in ("", ".csh", ".fish")),
})  # fmt: skip


_PYTHON = re.compile(r"bin/python[0-9.]*")


def refuse_claims(what: str, claims: Iterable[tuple[str, Mapping[str, object]]], scripts: Mapping[str, bytes]) -> None:
    """Raise VerificationError when one of `claims`, path in the prefix and its entry of paths.json, is ours to make.

    `what` ships them. `scripts` are the activation scripts: a package may have the very same (the metapackage does),
    which is known by the SHA-256 in the entry.
    """
    for path, entry in claims:
        if path.startswith("lib/") and not path.endswith("/__pycache__"):
            continue  # nearly all; nothing of ours is there
        kind = entry.get("path_type", "hardlink")
        first, _, rest = path.partition("/")
        name = path.rpartition("/")[2]
        if kind != "directory" and (path in _FOLDERS or name == "__pycache__"):
            _refuse(what, path, "must be a folder in the environment")
        if path in _FILES or first.startswith(".satenv-") or (first == "conda-meta" and rest.endswith(".json")):
            _refuse(what, path, "is made by this program in every environment")
        if path in scripts and (kind != "hardlink" or entry.get("sha256") != hashlib.sha256(scripts[path]).hexdigest()):
            _refuse(
                what, path, "is this program's activation script, and the package has other content for it",
                "bring this program and the cogvideo-sat-env package to the same version",
            )  # fmt: skip


def refuse_pythons(what: str, claimed: Iterable[str]) -> None:
    """Raise VerificationError when one of the paths that `what` has in common with other packages is the Python's."""
    for path in claimed:
        if _PYTHON.fullmatch(path):
            _refuse(what, path, "is the environment's Python")


def _refuse(what: str, path: str, why: str, remedy: str = "") -> None:
    raise VerificationError(
        f"{what}: has a file or a link at {path}, which {why}",
        remedy or "don't use this package, or another version of it; tell its channel",
    )


def write(root: Path, name: str, content: bytes, mode: int = 0o666) -> None:
    """Write a file of ours at `name` in the staged prefix `root`, with `mode` as the umask leaves it.

    What is there is replaced, never written through. Raises VerificationError for a link or a file in place of one of
    its folders, OSError.
    """
    folder = root
    for part in name.split("/")[:-1]:
        folder /= part
        if not os.path.lexists(folder):
            folder.mkdir()
        elif folder.is_symlink() or not folder.is_dir():
            _refuse("a package", str(folder.relative_to(root)), "must be a folder in the environment")
    target = root / name
    if os.path.lexists(target):
        target.unlink()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as stream:
        stream.write(content)

"""Read-only caches of others (SATENV_CACHE_LAYERS), as on a cluster's shared file system: used in place, never written.

A file of a layer is used after its SHA-256 was found to be the expected one. Folders (extracted packages) are used only
from a layer that nobody can write to but its owner.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import link_or_copy, replacing
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.paths import user_path
from cogvideo_sat_env.base.permissions import TRUST, shared_on_purpose, why_untrusted
from cogvideo_sat_env.base.progress import Progress

VARIABLE = "SATENV_CACHE_LAYERS"


def layers_from_environment() -> tuple[Path, ...]:
    """Return the folders of SATENV_CACHE_LAYERS (separated by ':'). Raises InputError for one that isn't there."""
    named = [user_path(part).absolute() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise InputError(
                f"{VARIABLE}: {folder}: no such folder; expected a cache of satenv (with artefacts/ in it)",
                "correct the variable, or unset it",
            )
    return tuple(named)


def find_file(layers: Sequence[Path], relative: str | Path, sha256: str) -> Path | None:
    """Return the file at `relative` in the first of `layers` that has one with this SHA-256, or None."""
    for layer in layers:
        path = layer / relative
        try:
            if path.is_file() and sha256_file(path) == sha256:
                return path
        except OSError:
            continue  # not for this user to read: as if it weren't there
    return None


def has_file(cache: Path, path: Path, sha256: str, progress: Progress | None = None) -> bool:
    """Tell whether the file `path` of `cache` is there with this SHA-256, or in a layer, from which it is taken then.

    One with other bytes is thrown away. Raises OSError, InputError (a layer that isn't there).
    """
    if path.is_file():
        if sha256_file(path) == sha256:
            return True
        if progress:
            progress.say(f"cache: {path.name} was damaged; it is fetched again")
        path.unlink()
        return False
    found = find_file(layers_from_environment(), path.relative_to(cache), sha256)
    if found is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as side:
        link_or_copy(found, side)
    return True


def trusted_layers(layers: Sequence[Path], progress: Progress | None = None) -> tuple[Path, ...]:
    """Return those of `layers` that only their owners and root can write to; the others are named to the user."""
    trusted = []
    for layer in layers:
        try:
            owner = layer.stat().st_uid
        except OSError:
            continue
        why = None if shared_on_purpose() else why_untrusted(layer, layer / "pkgs", layer / "packages", owner=owner)
        if why is None:
            trusted.append(layer)
        elif progress:
            progress.say(
                f"SATENV_CACHE_LAYERS: {why}; of this layer only downloads are used, each compared with the lock "
                f"({TRUST}=1 trusts it)"
            )
    return tuple(trusted)

"""Which locks are meant on the command line, and what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin, channel_name, split_archive, split_url
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.lock.read import lock_platforms, read_lock
from cogvideo_sat_env.lock.render import read_sizes
from cogvideo_sat_env.spec.variants import Variant, choose_variant, guess_device, read_variants

WHEELHOUSE = "wheelhouse"
OWN_LOCKS = "own-locks"  # folder of the project in a bundle
OWN = ":"  # in the name of a part: what follows is the name of a lock that isn't the project's


@dataclass(frozen=True)
class CondaFile:
    """A conda package: where it lies below a mirror, and what the lock says of it."""

    path: str
    artefact: CondaArtefact


@dataclass(frozen=True)
class Part:
    """One variant's lock as the files that it consists of. `channels` are folders below a mirror."""

    variant: str
    platform: str
    lock: str
    lock_sha256: str
    channels: tuple[str, ...]
    conda: tuple[CondaFile, ...]
    pip: tuple[PipPin, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what a mirror or a bundle keeps of it."""
        return {
            "platform": self.platform,
            "lock": self.lock,
            "lock_sha256": self.lock_sha256,
            "channels": list(self.channels),
            "conda": [
                {
                    "path": item.path,
                    **{key: getattr(item.artefact, key) for key in ("url", "sha256", "md5", "size")},
                    "depends": list(item.artefact.depends),
                }
                for item in self.conda
            ],
            "pip": [
                {key: getattr(pin, key) for key in ("name", "version", "file_name", "sha256", "size")}
                for pin in self.pip
            ],
        }


def part_from_json(variant: str, data: dict[str, Any]) -> Part:
    """Read what `to_json` wrote. Raises KeyError, TypeError, ValueError for anything else."""
    conda = []
    for entry in data["conda"]:
        channel, subdir, file_name = split_url(entry["url"])
        name, version, build = split_archive(file_name)
        artefact = CondaArtefact(
            name, version, build, subdir, channel, file_name, entry["url"], entry["sha256"], entry["md5"],
            entry["size"], tuple(entry["depends"]),
        )  # fmt: skip
        conda.append(CondaFile(safe_path(entry["path"]), artefact))
    pip = tuple(PipPin(e["name"], e["version"], e["sha256"], e["file_name"], e["size"]) for e in data["pip"])
    return Part(
        variant, data["platform"], data["lock"], data["lock_sha256"], tuple(data["channels"]), tuple(conda), pip
    )


def choose(platforms: Sequence[str], everything: bool, device: str) -> list[Variant]:
    """Return the variants meant by --platform, --all and --variant; without any, this machine's.

    Raises InputError when there is no lock for one of them.
    """
    variants = read_variants()
    if everything:
        return [v for v in variants if device == "auto" or v.device == device]
    chosen = []
    for platform in platforms or [current_platform()]:
        there = [v.device for v in variants if v.platform == platform]
        wanted = device
        if device == "auto":
            wanted = there[0] if len(there) == 1 else guess_device(platform)[0] if not platforms else "cuda"
        chosen.append(choose_variant(variants, platform, wanted))
    return list({variant.id: variant for variant in chosen}.values())


def read_parts(
    root: Path, platforms: Sequence[str], everything: bool, variant: str, lock: Path | None = None
) -> list[Part]:
    """Return what --platform, --all, --variant and --lock mean; `lock` is a lock in place of the project's.

    Raises InputError when there is no lock, or none for one of the platforms.
    """
    if lock is None:
        return [read_part(root, meant) for meant in choose(platforms, everything, variant)]
    if everything:
        known = {other.platform for other in read_variants()}
        platforms = [platform for platform in lock_platforms(lock) if platform in known]
    return [read_part(root, meant.with_lock(root, lock)) for meant in choose(platforms, False, variant)]


def read_part(root: Path, variant: Variant) -> Part:
    """Read the lock of `variant` in the project at `root`, or the user's own that it has. Raises InputError."""
    path = root / variant.lock
    lock = read_lock(path, variant.platform, read_sizes(root))
    conda = tuple(CondaFile(safe_path(a.channel_path), a) for a in lock.conda)
    named = (name if "://" not in name else channel_name(name) for name in lock.channels)
    found = (channel_name(a.channel) for a in lock.conda)
    channels = tuple(dict.fromkeys(safe_path(name) for name in (*named, *found) if name))
    for pin in lock.pip:
        safe_path(f"{WHEELHOUSE}/{pin.file_name}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if variant.has_own_lock:  # its folder is this machine's affair; beside the project's own variant, not in its place
        return Part(f"{variant.id}{OWN}{path.name}", variant.platform, path.name, digest, channels, conda, lock.pip)
    return Part(variant.id, variant.platform, variant.lock, digest, channels, conda, lock.pip)


def safe_path(path: str) -> str:
    """Return `path` when it stays below the folder that it is put into. Raises InputError."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or any(p in ("..", ".") or "\\" in p or "\0" in p for p in path.split("/")):
        raise InputError(f"{path!r}: a path that leads out of the mirror", "make the lock again")
    return str(PurePosixPath(path))

"""Where a bundle's packages come from: a mirror, made on the way where there is none, or a channel made of wheels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.bundle.pack import Content
from cogvideo_sat_env.bundle.tool_wheels import PYTHONS
from cogvideo_sat_env.fetch.wanted import Policy
from cogvideo_sat_env.source.mirror.mirror import make_mirror, read_record
from cogvideo_sat_env.source.mirror.selection import WHEELHOUSE, CondaFile, Part
from cogvideo_sat_env.spec.environment import read_environment

WHEELS_CHANNEL = "wheels"


def from_mirror(
    parts: Sequence[Part], folder: Path, mirrors: Sequence[str], pythons: Sequence[str], own: Path | None,
    policy: Policy, progress: Progress,
) -> Content:  # fmt: skip
    """Return what `parts` need, from the mirror at `folder`, which is completed first; `own` is their lock, if any.

    A mirror that has it all already isn't touched: packing proves its bytes again. Raises what mirroring raises.
    """
    for python in pythons:
        if python not in PYTHONS:
            raise InputError(f"--python {python!r}: expected one of {', '.join(PYTHONS)}", None)
    known = {part.variant: part for part in read_record(folder)}
    if any(known.get(part.variant) is None or known[part.variant].lock_sha256 != part.lock_sha256 for part in parts):
        make_mirror(folder, parts, mirrors=mirrors, policy=policy, fast=False, progress=progress)
    place = {item.path: folder / item.path for part in parts for item in part.conda}
    place |= {pin.file_name: folder / WHEELHOUSE / pin.file_name for part in parts for pin in part.pip}
    missing = [str(path) for path in place.values() if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such file; the mirror is not complete", f"run: {satenv('mirror', folder)}")
    return Content(parts, place, "lock", sorted(pythons or PYTHONS, key=PYTHONS.index), own_lock=own)


def from_wheels(root: Path, cache: Path, python: Path | None, progress: Progress) -> Content:
    """Return the channel that `create --source wheels` makes on this machine, without its `python`.

    That package is links to this machine's interpreter; the target makes one of its own.
    """
    from cogvideo_sat_env.source.wheels.channel import build_channel
    from cogvideo_sat_env.source.wheels.lockfile import choose_python  # the wheels source loads slowly

    interpreter, lock = choose_python(root / "locks", python)
    environment = read_environment(root / "environment.yml")
    channel = build_channel(
        environment, lock, python=interpreter.executable, cache=cache, progress=progress, recipe=root / "recipe"
    )
    conda, place = [], {}
    for artefact in channel.artefacts:
        if artefact.name == "python":
            continue
        path = f"{WHEELS_CHANNEL}/{artefact.subdir}/{artefact.file_name}"
        place[path] = channel.path / artefact.subdir / artefact.file_name
        base = f"https://bundle.invalid/{WHEELS_CHANNEL}"  # no channel has them, and this machine's paths stay here
        own = replace(artefact, channel=base, url=f"{base}/{artefact.subdir}/{artefact.file_name}")
        conda.append(CondaFile(path, own))
    part = Part(
        f"wheels-{interpreter.tag}", interpreter.platform, f"locks/{lock.name}",
        hashlib.sha256(lock.read_bytes()).hexdigest(), (WHEELS_CHANNEL,), tuple(conda), (),
    )  # fmt: skip
    needed = (
        f"with exactly Python {interpreter.minor} (CPython, {interpreter.platform}), which becomes the environment's "
        "Python and has to stay where it is"
    )
    specs = tuple(spec for spec in channel.specs if spec.split()[0] != "python")
    return Content([part], place, "wheels", [interpreter.minor], needed, specs, channel.not_provided)

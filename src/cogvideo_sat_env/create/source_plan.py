"""What is to be in a prefix, and where its bytes are: from a lock, or from a package index's wheels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError, SourceError
from cogvideo_sat_env.base.paths import cache_dir
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.wheel_patch import patches_of
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.install import activation
from cogvideo_sat_env.install.job import Plan
from cogvideo_sat_env.source.source import Source
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.variants import Variant, derive

CUDA_WHEELS = "PyTorch on a package index is its CUDA build (4 GB in all), which runs on a CPU as well"


def choose_plan(
    root: Path, environment: Environment, variant: Variant, source: Source, python: Path | None, progress: Progress,
    guessed: bool = False,
) -> Plan:  # fmt: skip
    """Return what `source` has for `variant`; with the source auto, wheels where the channels don't answer.

    The wheels are of one variant: they stand for another only where that was `guessed`, not asked for.
    Raises InputError, SourceError.
    """
    if source.kind == "auto" and variant.has_own_lock:
        source = Source("channel")  # no wheels stand for somebody else's lock
    if source.kind in ("auto", "channel", "mirror"):
        plan = lock_plan(root, environment, variant, source)
        if source.kind != "auto":
            return plan
        first = plan.artefacts[0]
        reason = why_unreachable(first.url)
        if reason is None:
            progress.say("Source: the lock's channels, which answer")
            return replace(plan, source=Source("channel"))
        if variant.device == "cpu" and not guessed:
            raise SourceError(
                f"{first.channel}: {reason}; the CPU variant is on conda channels only: {CUDA_WHEELS}",
                "name a mirror with --source mirror=WHERE; or leave --variant out, to take the wheels",
            )
        progress.say(f"{first.channel}: {reason}")
        if variant.device == "cpu":
            progress.say(f"Variant: wheels, not {variant.id}: {CUDA_WHEELS}")
    try:
        return _wheels_plan(root, environment, variant, python, progress)
    except InputError as error:
        if source.kind != "auto":
            raise
        raise SourceError(
            f"the lock's channels don't answer, and there are no wheels for this machine: {error.message}",
            "check the network, name a mirror with --source mirror=WHERE, or use a Python that has a wheel lock",
        ) from error


def lock_plan(root: Path, environment: Environment, variant: Variant, source: Source) -> Plan:
    """Return what the lock of `variant` says, to be had from `source`. Raises InputError."""
    from cogvideo_sat_env.lock.read import read_lock
    from cogvideo_sat_env.lock.render import read_sizes

    path = root / variant.lock
    lock = read_lock(path, variant.platform, read_sizes(root))
    if variant.has_own_lock:
        needed = {depend.split()[0] for artefact in lock.conda for depend in artefact.depends}
        requested = [artefact.name for artefact in lock.conda if artefact.name not in needed]
    else:
        requested = [str(spec) for spec in derive(environment, variant, root / variant.environment).conda]
    kind = "channel" if source.kind == "auto" else source.kind
    # a lock of the user's own has versions of its own: it gets the bytes that it names
    patches = {} if variant.has_own_lock else _patches(root, lock.pip)
    facts = {
        "variant": variant.id,
        "lock": variant.lock,
        "lock_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "inputs": inputs_digest(root, path, kind, variant),
        "data_only": bool(variant.data_only),
        "not_provided": [],
        "patched": {name.lower(): [path.name for path in files] for name, files in patches.items()},
    }
    return Plan(
        source, variant.platform, lock.conda, lock.pip, requested, kept_variables(environment, variant), facts, patches
    )


def _patches(root: Path, pins: Sequence[PipPin]) -> dict[str, list[Path]]:
    """Return the recipe's patches for these pip packages: an environment has them whatever its source."""
    found = {pin.name: patches_of(root / "recipe", pin.name) for pin in pins}
    return {name: files for name, files in found.items() if files}


def _wheels_plan(
    root: Path, environment: Environment, variant: Variant, python: Path | None, progress: Progress
) -> Plan:
    from cogvideo_sat_env.source.wheels.channel import build_channel
    from cogvideo_sat_env.source.wheels.lockfile import choose_python

    interpreter, lock = choose_python(root / "locks", python)
    progress.say(
        "These are a package index's wheels in conda packages, not conda-forge's binaries; "
        f"Python is the one at {interpreter.base} ({interpreter.version}), which has to stay there"
    )
    channel = build_channel(
        environment, lock, python=interpreter.executable, cache=cache_dir(), progress=progress, recipe=root / "recipe"
    )
    facts = {
        "variant": "wheels",
        "python": str(interpreter.base),
        "lock": lock.name,
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
        "inputs": inputs_digest(root, lock, "wheels", variant),
        "data_only": False,
        "not_provided": [asdict(item) for item in channel.not_provided],
        "patched": dict(channel.patched),
    }
    return Plan(
        Source("wheels"), variant.platform, channel.artefacts, (), channel.specs, kept_variables(environment, variant),
        facts,
    )  # fmt: skip


def kept_variables(environment: Environment, variant: Variant) -> dict[str, str]:
    """Return the variables of environment.yml that are set with `variant`."""
    return {name: value for name, value in environment.variables.items() if name not in variant.drop_variables}


def inputs_digest(root: Path, lock: Path, kind: str, variant: Variant) -> str:
    """Return a SHA-256 over everything that decides the content of the prefix: files, variant, this program."""
    digest = hashlib.sha256()
    variant_id = "" if kind == "wheels" else variant.id
    digest.update(f"{__version__} {kind} {variant_id} {activation.load().version}".encode())
    patches = () if variant.has_own_lock else sorted((root / "recipe" / "patches").glob("*/*.patch"))
    for path in (root / "environment.yml", lock, *patches):
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"absent")
    return digest.hexdigest()

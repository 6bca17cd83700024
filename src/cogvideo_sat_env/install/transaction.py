"""Makes a prefix from a lock's artefacts: complete or absent, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, PrefixError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install import receipt, staging
from cogvideo_sat_env.install.activation import Activation
from cogvideo_sat_env.install.job import Clock, Job
from cogvideo_sat_env.install.prefix_lock import prefix_lock
from cogvideo_sat_env.install.receipt import is_up_to_date

if TYPE_CHECKING:
    from cogvideo_sat_env.install.stage import Staged

__all__ = ["InstallResult", "install_prefix", "is_up_to_date"]

ATTEMPTS = 3  # at linking packages that something changes
NAME_MAX = 255 - len("..satenv-trash-01234567")  # bytes: the siblings' names must fit the file system, too


@dataclass(frozen=True)
class InstallResult:
    """What was done.

    status      "created", "replaced", "repaired" or "up-to-date"
    stages      seconds by stage, in order
    bytes       of the artefacts that were proven (compressed)
    files       linked, laid out and generated, without bytecode
    link_scripts (those that were not run) and collisions are for the user to read
    mended      what a repair put right, and why
    kept        where the replaced prefix is kept for `undo`, if it is
    """

    prefix: Path
    status: str
    stages: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    packages: int = 0
    files: int = 0
    link_scripts: tuple[str, ...] = ()
    link_scripts_run: tuple[str, ...] = ()
    collisions: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()
    kept: str = ""


def install_prefix(
    prefix: Path,
    *,
    platform: str,
    artefacts: Sequence[CondaArtefact],
    pip_pins: Sequence[PipPin],
    locate: Callable[[CondaArtefact], str | Sequence[str]],
    source: str,
    receipt_facts: Mapping[str, Any],
    activation: Activation,
    variables: Mapping[str, str],
    cache: Path,
    progress: Progress,
    replace: bool = False,
    requested: Sequence[str] = (),
    find_links: Sequence[str] = (),
    lock_timeout: float | None = None,
    layers: Sequence[Path] = (),
    full: bool = False,
    repair: bool = False,
    keep: bool = False,
    break_lock: bool = False,
    allow_link_scripts: Sequence[str] = (),
) -> InstallResult:
    """Make `prefix` hold exactly `artefacts` and `pip_pins`, or leave everything as it was.

    `locate` gives the URL (http, https, file) of an artefact, or several in the order to try them; `source` is their
    kind, as told to the user and recorded. `replace` allows an older environment of ours in place of the new one.
    `requested` are the user's match specs. `find_links` are places of pip files, in order; without any the package
    index is asked. `lock_timeout` is in seconds. `layers` are
    read-only caches to take packages from. With `full` every byte of what the cache already has is hashed again. With
    `repair` a prefix of ours is compared with what it should be, and what differs is put right, file by file. `keep`
    keeps the prefix that is replaced for `undo`. `break_lock` takes the lock of another host that gave no sign of life
    for long. `allow_link_scripts` are names of packages whose post-link scripts may run, or "all".
    Raises the errors of base/errors.py; on KeyboardInterrupt what was staged is removed and it goes on.
    """
    if platform != current_platform():
        raise InputError(
            f"the lock is for {platform}; this machine is {current_platform()}",
            "create the environment on a machine of that platform, or choose another --platform",
        )
    prefix = Path(os.path.abspath(prefix))
    wanted = receipt.fingerprint(
        platform=platform, artefacts=artefacts, pip_pins=pip_pins, variables=variables,
        activation_version=activation.version, source=source,
    )  # fmt: skip
    clock = Clock()
    with clock.stage("compare"):
        if not repair and is_up_to_date(prefix, wanted) and _nothing_left(prefix):
            return InstallResult(prefix, "up-to-date", clock.stages, packages=len(artefacts) + len(pip_pins))
    _require_possible(prefix)
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrefixError(
            f"{prefix.parent}: can't be made: {error.strerror}", "choose another prefix with -p"
        ) from error
    job = Job(
        prefix, wanted, platform, artefacts, pip_pins, locate, source, receipt_facts, activation, variables, cache,
        progress, requested, find_links, layers, full, frozenset(allow_link_scripts),
    )  # fmt: skip
    with prefix_lock(prefix, progress, lock_timeout, break_lock=break_lock):
        with clock.stage("recover"):
            staging.recover(prefix, progress)
        if is_up_to_date(prefix, wanted) and not repair:  # another run made it while this one waited
            return InstallResult(prefix, "up-to-date", clock.stages, packages=len(artefacts) + len(pip_pins))
        with diskspace.watch(prefix, "the environment"):
            old = _require_repairable(prefix, wanted) if repair else _require_ours(prefix, wanted, replace)
        return _make(job, clock, old if repair else None, keep)


def _nothing_left(prefix: Path) -> bool:
    """Whether no killed run has left anything beside a good prefix that could be removed, under the lock."""
    return not (staging.any_left(prefix) and os.access(prefix.parent, os.W_OK))


def _make(job: Job, clock: Clock, broken: dict[str, Any] | None, keep: bool) -> InstallResult:
    """Stage what `job` says; put it in place, or mend the prefix after it where the receipt `broken` is given."""
    # the libraries behind these load slowly: an environment that is up to date doesn't wait for them
    from cogvideo_sat_env.install import post_link, repair

    prefix = job.prefix
    root, staged = _staged(job, clock)
    mended: Sequence[repair.Mended] = ()
    ran: tuple[str, ...] = ()
    status = "created"
    try:
        with diskspace.watch(prefix.parent, "the environment"):
            if broken is not None:
                with clock.stage("repair"):
                    mended = repair.mend(prefix, root, broken)
                status = "repaired" if mended else "up-to-date"
                staging.discard(prefix, root)
            else:
                with clock.stage("rename"):
                    old = staging.commit(prefix, root)
                status = "replaced" if old else "created"
                with clock.stage("link scripts"):
                    try:
                        ran = post_link.run(prefix, staged.allowed_scripts, job.progress)
                    except BaseException:
                        staging.take_back(prefix, old)
                        raise
                with clock.stage("rename"):
                    staging.settle(prefix, old, keep)
    except BaseException:
        if root.exists():
            staging.discard(prefix, root)
        raise
    return InstallResult(
        prefix,
        status,
        clock.stages,
        bytes=staged.bytes,
        packages=len(job.artefacts) + len(job.pip_pins),
        files=staged.files,
        link_scripts=staged.link_scripts,
        link_scripts_run=ran,
        collisions=staged.collisions,
        mended=tuple(str(entry) for entry in mended),
        kept=str(staging.kept(prefix) or ""),
    )


def _staged(job: Job, clock: Clock) -> tuple[Path, Staged]:
    """Stage what `job` says; do it again with the packages of the cache that turn out to be changed."""
    from cogvideo_sat_env.install.link import Changed
    from cogvideo_sat_env.install.stage import forget, inspect, provide, stage
    from cogvideo_sat_env.install.workers import WorkerPool

    for _ in range(ATTEMPTS):
        with clock.stage("fetch"):
            manifests = provide(job.artefacts, job.locate, job.cache, job.layers, job.progress, job.full)
        with clock.stage("inspect"):
            packages = inspect(job, manifests)
        root = staging.make(job.prefix)
        try:
            with diskspace.watch(job.prefix.parent, "the environment"), WorkerPool() as workers:
                return root, stage(job, packages, root, clock, workers)
        except BaseException as error:
            if root.exists():
                staging.discard(job.prefix, root)
            if not isinstance(error, Changed):
                raise
            forget(job, packages, error)
    raise VerificationError(
        f"{job.cache}: extracted packages changed {ATTEMPTS} times while they were linked",
        "something changes the cache while it is used: choose another with SATENV_CACHE",
    )


def require_usable(prefix: Path, wanted: str, replace: bool) -> None:
    """Raise PrefixError for a prefix that `install_prefix` would refuse, for callers with long work before it."""
    _require_possible(prefix)
    _require_ours(prefix, wanted, replace)


def _require_possible(prefix: Path) -> None:
    """Raise PrefixError for a prefix that can't be, before anything is fetched."""
    if len(prefix.name.encode("utf-8")) > NAME_MAX or not prefix.name:
        raise PrefixError(f"{prefix}: its last part must have 1 to {NAME_MAX} bytes", "choose another prefix with -p")
    if any(character in str(prefix) for character in "\n\r:"):
        raise PrefixError(f"{str(prefix)!r}: a prefix can't hold line breaks or ':' (PATH)", "choose another with -p")
    if prefix.is_symlink():
        raise PrefixError(f"{prefix}: is a symbolic link to {os.readlink(prefix)}", "name the directory itself with -p")
    if prefix.exists() and not prefix.is_dir():
        raise PrefixError(f"{prefix}: is a file, not a directory", "choose another prefix with -p")
    nearest = diskspace.existing(prefix.parent)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PrefixError(f"{nearest}: not writable; {prefix} can't be made", "choose another prefix with -p")


def _require_repairable(prefix: Path, wanted: str) -> dict[str, Any]:
    """Return the receipt of `prefix`. Raises PrefixError unless it was made from the same lock."""
    found = receipt.read(prefix)
    if found is None:
        raise PrefixError(
            f"{prefix}: has no receipt of this program, so that there is nothing to repair it after",
            f"make it with {satenv('create')}; a folder that isn't ours is left alone",
        )
    if found.get("fingerprint") != wanted:
        raise PrefixError(
            f"{prefix}: was made from another lock, source or variant ({found.get('variant')} from "
            f"{found.get('source')}, {found.get('made')})",
            f"name that --source, --variant or --lock, or bring it to the present lock with {satenv('update')}",
        )
    return found


def _require_ours(prefix: Path, wanted: str, replace: bool) -> None:
    """Raise PrefixError unless `prefix` is free, or is an older one of ours and `replace` is set."""
    if not prefix.exists() or not any(prefix.iterdir()):
        return
    found = receipt.read(prefix)
    if found is None:
        kind = "a conda environment that this program didn't make" if (prefix / "conda-meta").is_dir() else "not empty"
        raise PrefixError(f"{prefix}: is {kind}; it is left alone", "choose another prefix with -p")
    if replace:
        return
    if found.get("fingerprint") == wanted:
        gone = receipt.missing(prefix, found)
        raise PrefixError(
            f"{prefix}: {len(gone)} of its files are missing or changed, e.g. {gone[0]}",
            "put them right with --repair, or make it anew with --replace (packages that you added are lost)",
        )
    raise PrefixError(
        f"{prefix}: holds another environment of this program (made {found.get('made')} from {found.get('source')})",
        "make it anew with --replace, or choose another prefix with -p",
    )

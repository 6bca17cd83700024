"""Makes a prefix from a lock's artefacts: complete or absent, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideo_sat_env.base import cache_use, diskspace
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import PrefixError, VerificationError
from cogvideo_sat_env.install import outcome, own_files, preflight, receipt, staging
from cogvideo_sat_env.install.job import Clock, Job, Options, Plan
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.install.prefix_lock import prefix_lock
from cogvideo_sat_env.install.receipt import is_up_to_date

if TYPE_CHECKING:
    from cogvideo_sat_env.install.post_link import LinkScript

ATTEMPTS = 3  # at linking packages that something changes


def install_prefix(job: Job) -> InstallOutcome:
    """Make `job.prefix` hold exactly what `job.plan` says, or leave everything as it was.

    Raises the errors of base/errors.py; on KeyboardInterrupt what was staged is removed and it goes on.
    """
    plan, options, progress = job.plan, job.options, job.progress
    preflight.require_platform(plan.platform)
    job = replace(job, prefix=Path(os.path.abspath(job.prefix)))
    prefix = job.prefix
    clock = Clock()
    with clock.stage("compare"):
        if not options.repair and is_up_to_date(prefix, receipt.read(prefix), plan.fingerprint):
            return outcome.of(job, "up-to-date", clock)
    preflight.require_prefix(prefix)
    preflight.require_places(job.cache)
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrefixError(
            f"{prefix.parent}: can't be made: {error.strerror}", "choose another prefix with -p"
        ) from error
    with (
        prefix_lock(prefix, progress, options.wait, break_lock=options.break_lock),
        cache_use.in_use(job.cache, progress),
    ):
        with clock.stage("recover"):
            staging.recover(prefix, progress)
        found = receipt.read(prefix)
        if not options.repair and receipt.holds(prefix, found, plan.fingerprint):  # made while this run waited
            return outcome.of(job, "up-to-date", clock)
        if moved := _moved(prefix, found, plan.fingerprint):
            progress.say(f"{prefix}: was made at {moved} and moved here; every file that names that place is put right")
            job = replace(job, options=replace(options, repair=True))
        with diskspace.watch(prefix, "the environment"):
            if job.options.repair:
                _require_repairable(prefix, found, plan.fingerprint)
            else:
                _require_ours(prefix, found, plan.fingerprint, options.replace)
        return _make(job, clock, found)


def _moved(prefix: Path, found: Mapping[str, Any] | None, wanted: str) -> str | None:
    """Return where the environment that is `wanted` was made, when it was moved to `prefix` since."""
    return receipt.moved_from(prefix, found) if found is not None and found.get("fingerprint") == wanted else None


def _make(job: Job, clock: Clock, found: dict[str, Any] | None) -> InstallOutcome:
    """Stage what `job` says; put it in place, or repair the prefix, whose receipt is `found`, after it."""
    # the libraries behind these load slowly: an environment that is up to date doesn't wait for them
    from cogvideo_sat_env.install import post_link, repair

    prefix = job.prefix
    root, made, scripts = _staged(job, clock)
    try:
        with diskspace.watch(prefix.parent, "the environment"):
            if job.options.repair and found is not None:
                with clock.stage("repair"):
                    made = repair.repair(made, root, found)
                staging.discard(prefix, root, job.progress)
            else:
                with clock.stage("rename"):
                    old = staging.commit(prefix, root)
                with clock.stage("link scripts"):
                    try:
                        post_link.run(prefix, scripts, job.progress)
                    except BaseException:
                        staging.take_back(prefix, old, job.progress)
                        raise
                with clock.stage("rename"):
                    staging.settle(prefix, old, job.options.keep, job.progress)
                ran = tuple(map(str, scripts))
                made = replace(made, status="replaced" if old else "created", link_scripts_run=ran)
    except BaseException:
        if root.exists():
            staging.discard(prefix, root, job.progress)
        raise
    return replace(made, kept=str(staging.kept(prefix) or ""))


def _staged(job: Job, clock: Clock) -> tuple[Path, InstallOutcome, list[LinkScript]]:
    """Stage what `job` says, where `stage` does; again where packages of the cache turn out to be changed."""
    from cogvideo_sat_env.install.link import Changed
    from cogvideo_sat_env.install.stage_prefix import forget, provide, stage
    from cogvideo_sat_env.install.workers import WorkerPool

    for _ in range(ATTEMPTS):
        with clock.stage("fetch"):
            manifests = provide(job)
        root = staging.make(job.prefix)
        try:
            with diskspace.watch(job.prefix.parent, "the environment"), WorkerPool() as workers:
                return root, *stage(job, manifests, root, clock, workers)
        except BaseException as error:
            if root.exists():
                staging.discard(job.prefix, root, job.progress)
            if not isinstance(error, Changed):
                raise
            forget(job, manifests, error)
    raise VerificationError(
        f"{job.cache}: extracted packages changed {ATTEMPTS} times while they were linked",
        "something changes the cache while it is used: choose another with SATENV_CACHE",
    )


def require_usable(prefix: Path, plan: Plan, options: Options) -> None:
    """Raise PrefixError for a prefix that `install_prefix` would refuse, for callers with long work before it."""
    preflight.require_prefix(prefix)
    if not options.repair:
        _require_ours(prefix, receipt.read(prefix), plan.fingerprint, options.replace)


def _require_repairable(prefix: Path, found: Mapping[str, Any] | None, wanted: str) -> None:
    """Raise PrefixError unless `found`, the receipt of `prefix`, says that it was made from the same lock."""
    if found is None:
        raise PrefixError(
            f"{prefix}: has no receipt of this program, so that there is nothing to repair it after",
            f"make it with {satenv('create')}; a folder that isn't ours is left alone",
        )
    if found.get("fingerprint") != wanted:
        raise PrefixError(
            f"{prefix}: was made from another lock, source or variant ({found.get('variant')} from "
            f"{found.get('source')}, {found.get('made')})",
            f"bring it to the present one with {satenv('update -p', prefix)}, or name the --source, --variant "
            "or --lock that it was made from",
        )


def _require_ours(prefix: Path, found: Mapping[str, Any] | None, wanted: str, replaceable: bool) -> None:
    """Raise PrefixError unless `prefix` is free, or is one of ours (with the receipt `found`) and `replaceable`."""
    if found is None or _moved(prefix, found, wanted):  # free, or refused by preflight; or to be repaired
        return
    if staging.is_mount(prefix):
        raise PrefixError(
            f"{prefix}: is a mount point with another environment in it, which can't be replaced in one step",
            "empty it first, or choose another prefix with -p",
        )
    if (prefix / own_files.FROZEN).exists() and found.get("fingerprint") != wanted:
        raise PrefixError(
            f"{prefix}: is marked as frozen ({own_files.FROZEN}): a release that jobs use is never changed",
            f"{satenv('deploy')} makes the next release; or choose another prefix with -p",
        )
    if replaceable:
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

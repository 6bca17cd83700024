"""`satenv update` and `satenv undo`: an environment brought to the present lock in one step, and back."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.create.create import CreateRequest, as_made, create
from cogvideo_sat_env.install import receipt, staging
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.install.package_manifest import walk
from cogvideo_sat_env.install.prefix_lock import prefix_lock


@dataclass(frozen=True)
class Undone:
    """What `undo` did: "undone" (swapped) or "forgotten" (what was kept is deleted)."""

    prefix: Path
    status: str
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts; the keys are stable."""
        return {"prefix": str(self.prefix), "status": self.status}


def update(prefix: Path, request: CreateRequest, progress: Progress) -> InstallOutcome:
    """Bring the environment at `prefix` to the present lock; the former one is kept for `undo` if `options` say so.

    Sources, variant ("") and lock file are those that it was made with, unless `request` has others. Raises InputError
    when it isn't ours, and the errors of `create`.
    """
    found = _ours(prefix)
    options = replace(request.options, replace=True)
    made = as_made(replace(request, prefix=prefix, name=None, options=options), prefix, found)
    outcome = create(made, progress)
    if outcome.status != "replaced":
        return outcome
    if outcome.kept:
        _say_space(Path(outcome.kept), progress)
    return replace(outcome, status="updated")


def undo(prefix: Path, *, forget: bool, break_lock: bool, progress: Progress, wait: float | None = None) -> Undone:
    """Put back what was at `prefix` before the last update (again: forward), or with `forget` delete it.

    Raises InputError when nothing is kept, PrefixError when it can't be done.
    """
    prefix = Path(os.path.abspath(prefix))
    if staging.kept(prefix) is None:
        raise InputError(
            f"{prefix}: nothing is kept of before; {satenv('update')} keeps one environment until the next update", None
        )
    with prefix_lock(prefix, progress, wait, break_lock=break_lock):
        staging.recover(prefix, progress)
        kept = staging.kept(prefix)
        if kept is None:
            raise InputError(f"{prefix}: another run has just deleted what was kept", None)
        if forget:
            count = staging.drop_kept(prefix)
            return Undone(prefix, "forgotten", f"{prefix}: what was kept for undo is deleted ({count})\n")
        found = _ours(kept)
        with diskspace.watch(prefix, "the environment"):
            staging.swap(prefix, kept)
    made = f"{found.get('made')} from {found.get('source')}"
    return Undone(prefix, "undone", f"{prefix}: is again what was made {made}; {satenv('undo')} swaps them back\n")


def _ours(prefix: Path) -> dict[str, Any]:
    found = receipt.read(prefix)
    if found is None:
        raise InputError(f"{prefix}: holds no environment of this program", f"make one with {satenv('create')}")
    return found


def _say_space(kept: Path, progress: Progress) -> None:
    """Say what keeping the former environment costs: the files that nothing shares, neither cache nor new one."""
    sizes = [(s.st_size, s.st_nlink) for _, s in walk(str(kept))]
    own = sum(size for size, links in sizes if links == 1)
    free = shutil.disk_usage(kept).free
    progress.say(
        f"The environment that was there is kept for {satenv('undo')}: {human_bytes(sum(size for size, _ in sizes))}, "
        f"of which {human_bytes(own)} are shared with nothing else; {human_bytes(free)} are free "
        f"({satenv('undo --forget')} deletes it)"
    )

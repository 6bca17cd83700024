"""`satenv releases`: what there is, which one is current, back to the one before, and away with the old ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError
from cogvideo_sat_env.base.printable import some
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.cluster import modulefile, record, release_usage
from cogvideo_sat_env.cluster import root as roots
from cogvideo_sat_env.cluster.deploy import require_whole
from cogvideo_sat_env.cluster.image_facts import facts_path
from cogvideo_sat_env.cluster.root import Root, existing_root
from cogvideo_sat_env.install import receipt, staging
from cogvideo_sat_env.install.prefix_lock import prefix_lock
from cogvideo_sat_env.report.columns import align


class Busy(PrefixError):
    """Another run is at work on a release."""


@dataclass(frozen=True)
class Done:
    """What a change did, as one line each."""

    root: Root
    action: str
    lines: tuple[str, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts; the keys are stable."""
        return {"root": str(self.root.path), "action": self.action, **self.facts, "exit_code": 0}

    def to_text(self) -> str:
        """Return it for people."""
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True)
class ReleaseListing:
    """The releases of a ROOT, oldest first, each with its record and what else is known of it."""

    root: Root
    current: str | None
    previous: str | None
    releases: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts; the keys are stable."""
        return {
            "root": str(self.root.path), "current": self.current, "previous": self.previous,
            "releases": [dict(entry) for entry in self.releases], "notes": list(self.notes), "exit_code": 0,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        rows = [("", "release", "packages", "bytes", "files", "created", "by", "doctor", "state")]
        for entry in self.releases:
            mark = "*" if entry["release"] == self.current else ""
            if "packages" not in entry:
                rows.append((mark, entry["release"], "", "", "", "", "", "", entry["state"]))
                continue
            rows.append((
                mark, entry["release"], str(entry["packages"]), human_bytes(entry["bytes"]), f"{entry['files']:,}",
                entry["created"][:16], entry["by"], _verdict(entry), entry["state"],
            ))  # fmt: skip
        lines = align(rows)
        lines += [
            f"{entry['release']} is used by {some(entry['used_by'], 3)}" for entry in self.releases if entry["used_by"]
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)]) + "\n"


def _verdict(entry: Mapping[str, Any]) -> str:
    doctor = entry.get("doctor")
    return "not run" if doctor is None else "passed" if doctor["ok"] else f"failed: {', '.join(doctor['failed'][:2])}"


def list_releases(path: Path) -> ReleaseListing:
    """Return the releases of the ROOT at `path`. Raises InputError, PrefixError."""
    root = existing_root(path)
    usage, current, previous = release_usage.find(root), root.current_name(), roots.previous_name(root)
    found = []
    for name in root.names():
        entry = record.read(root, name)
        words = [word for word, true in (("current", name == current), ("previous", name == previous),
                                         ("pinned", bool(entry and entry["pinned"]))) if true]  # fmt: skip
        words += [] if entry else ["a deployment that wasn't completed; deploy it again, or prune it"]
        prefix = root.prefix(name)
        made = receipt.read(prefix) if prefix.is_dir() else None
        if prefix.is_dir() and (made is None or receipt.missing(prefix, made)):
            words.append("damaged: files are missing, or can't be read by you")
        elif not prefix.is_dir():
            words.append("image only" if root.has(name) else "no folder")
        found.append({"release": name, **(entry or {}), "current": name == current, "state": ", ".join(words),
                      "used_by": usage.uses.get(name, [])})  # fmt: skip
    return ReleaseListing(root, current, previous, tuple(found), tuple(usage.notes))


def activate(path: Path, name: str, progress: Progress, break_lock: bool = False) -> Done:
    """Make the release `name` current. Raises InputError for one that isn't whole or proven, PrefixError."""
    root = existing_root(path)
    require_whole(root, name)
    with roots.changing(root, progress, break_lock):
        return _switch(root, name, "activate")


def rollback(path: Path, progress: Progress, break_lock: bool = False) -> Done:
    """Make current what was current before; again, and it is back. Raises InputError where nothing was, PrefixError."""
    root = existing_root(path)
    with roots.changing(root, progress, break_lock):
        name = roots.previous_name(root)
        if name is None:
            raise InputError(f"{root.path}: nothing that was current before is still there", "name one: activate NAME")
        require_whole(root, name)
        return _switch(root, name, "rollback")


def _switch(root: Root, name: str, how: str) -> Done:
    before = root.current_name()
    roots.point(root, name, record.user(), how)
    line = f"{root.current} -> releases/{name}" + (f" (before: {before})" if before != name else " (as before)")
    return Done(root, how, (line,), {"current": name, "previous": before})


def pin(path: Path, name: str, pinned: bool, progress: Progress, break_lock: bool = False) -> Done:
    """Have `prune` keep a release, or not any more. Raises InputError, PrefixError."""
    root = existing_root(path)
    root.require_release(name)
    with roots.changing(root, progress, break_lock):
        found = record.read(root, name)
        if found is None:
            raise InputError(f"{root.prefix(name)}: wasn't completed", f"{satenv('deploy', root.path)} completes it")
        record.write(root, {**found, "pinned": pinned})
    done = "pinned: prune keeps it" if pinned else "no longer pinned"
    return Done(root, "pin" if pinned else "unpin", (f"{name}: {done}",), {"release": name, "pinned": pinned})


def prune(
    path: Path, progress: Progress, *, keep: int | None, name: str | None = None, ignore_jobs: bool = False,
    dry_run: bool = False, break_lock: bool = False,
) -> Done:  # fmt: skip
    """Delete all but the `keep` newest releases, or the one that is named.

    Kept, too, are the current one, the one that rollback goes to, pinned ones, and those in use as far as is known; one
    of these that is named is refused. Raises InputError, PrefixError; SatenvError where Slurm doesn't answer, unless
    `ignore_jobs`.
    """
    root = existing_root(path)
    if name is not None:
        root.require_release(name)
    with roots.changing(root, progress, break_lock):
        usage = release_usage.find(root)
        if usage.unknown and not ignore_jobs:
            raise SatenvError(
                f"{root.path}: nothing is deleted: {usage.notes[0]}",
                "run it where Slurm answers; or, when no job uses the old releases, add --ignore-jobs",
            )
        names = root.names()
        kept = _reasons(root, names, usage.uses)
        if name is not None and name in kept:
            raise PrefixError(f"{root.prefix(name)}: is not deleted: it is {kept[name]}", _help(kept[name], root, name))
        newest = set(names[max(len(names) - (keep or 0), 0) :]) if keep else set()
        chosen = [name] if name is not None else [one for one in names if one not in kept and one not in newest]
        lines = [f"kept: {one}: {why}" for one, why in kept.items() if name is None and one not in newest]
        freed, deleted = 0, []
        for one in chosen:
            size = (record.read(root, one) or {}).get("bytes", 0)
            try:
                if not dry_run:
                    _delete(root, one, progress)
            except Busy as error:
                if name is not None:
                    raise
                kept[one] = f"being worked on ({error.message})"
                lines.append(f"kept: {one}: {kept[one]}")
            else:
                deleted.append(one)
                freed += size
        if not dry_run:
            _sweep(root, usage, progress)
    verb = "would delete" if dry_run else "deleted"
    lines += [f"{verb}: {one}" for one in deleted] or [f"{root.path}: nothing to delete"]
    lines += [f"note: {note}" for note in usage.notes]
    facts = {"deleted": deleted, "kept": kept, "bytes": freed, "dry_run": dry_run, "notes": usage.notes}
    return Done(root, "prune", tuple(lines), facts)


def _reasons(root: Root, names: list[str], uses: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the releases that can't be deleted, and why."""
    current, previous = root.current_name(), roots.previous_name(root)
    kept: dict[str, str] = {}
    for name in names:
        found = record.read(root, name)
        if name == current:
            kept[name] = "current"
        elif name == previous:
            kept[name] = "what rollback goes to"
        elif found and found["pinned"]:
            kept[name] = "pinned"
        elif name in uses:
            kept[name] = f"in use by {some(uses[name], 3)}"
    return kept


def _help(why: str, root: Root, name: str) -> str:
    if why == "pinned":
        return f"{satenv('releases', root.path)} unpin {name}"
    return "make another one current first" if why == "current" else "wait until that has changed"


def _delete(root: Root, name: str, progress: Progress) -> None:
    """Delete a release: first what leads users there, then the folder (renamed before), its record last."""
    prefix = root.prefix(name)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(prefix_lock(prefix, progress, timeout=0))
        except PrefixError as error:
            raise Busy(error.message, error.remedy) from error
        modulefile.remove(root, name)
        if os.path.lexists(prefix):
            staging.delete(prefix, prefix)
        for path in (root.image(name), facts_path(root.image(name))):
            path.unlink(missing_ok=True)
        record.path(root, name).unlink(missing_ok=True)


def _sweep(root: Root, usage: release_usage.Usage, progress: Progress) -> None:
    """Delete what deployments and deletions that were cut off have left, and the leases of jobs that have ended."""
    left = {path.name[1:].partition(".satenv-")[0] for path in root.releases.iterdir() if ".satenv-" in path.name}
    for name in sorted(left):
        with (
            contextlib.suppress(PrefixError),
            prefix_lock(root.prefix(name), progress, timeout=0),
        ):  # else it is at work
            staging.recover(root.prefix(name), progress)
    for path in usage.ended:
        with contextlib.suppress(OSError):  # the job's own user may delete it, the administrator perhaps not
            path.unlink()

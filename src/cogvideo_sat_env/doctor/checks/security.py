"""Security: versions that advisories warn of, and files that others could change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from . import _osv
from ._prefix import installed
from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, passed, some, warning

_SHOWN = ("id", "aliases", "name", "version", "fixed", "summary")  # of an advisory, in the report


def advisories(request: ProbeRequest) -> ProbeOutcome:
    """No Python package has a version that the user's advisories name."""
    named = request.options.get("security.advisories")
    if not named:
        return not_run("not run: no advisories given (--advisories FILE or folder, in OSV's JSON format)")
    packages = installed()
    try:
        found = _osv.search(Path(named), packages, request.options.get("security.accepted") or [])
    except (OSError, ValueError) as error:
        return failed(f"the advisories can't be read: {error}", "name a file or folder of OSV JSON with --advisories")
    count, hits, unjudged, left_out = found.count, found.hits, found.unjudged, found.accepted
    shown = [{name: getattr(hit, name) for name in _SHOWN} for hit in hits]
    details = {"advisories": count, "accepted": sorted(left_out), "not_judged": unjudged, "hits": shown}
    if hits:
        fixed = [f" (fixed in {', '.join(hit.fixed)})" if hit.fixed else "" for hit in hits]
        first = some([f"{h.name} {h.version}: {h.id}{by}" for h, by in zip(hits, fixed, strict=True)], between="; ")
        names = " ".join(f"--update {name}" for name in dict.fromkeys(hit.name for hit in hits))
        return failed(
            f"{len(hits)} known vulnerabilities: {first}{_not_judged(unjudged, '; ')}",
            f"{{satenv}} lock {names}, then {{satenv}} update -p '{request.inputs['prefix']}'; "
            "or accept by id: docs/doctor.md",
            **details,
        )  # fmt: skip
    output = f" ({', '.join(sorted(left_out))} accepted)" if left_out else ""
    if unjudged:
        return warning(
            f"{len(packages)} Python packages, {count:,} advisories: {_not_judged(unjudged)}; of the others none"
            f" applies{output}",
            "read those advisories; the ids of what doesn't apply go into security.accepted: docs/doctor.md", **details,
        )  # fmt: skip
    return passed(f"{len(packages)} Python packages, {count:,} advisories, none applies{output}", **details)


def _not_judged(found: dict[str, list[str]], before: str = "") -> str:
    """Say which packages were not judged; nothing when all were."""
    if not found:
        return ""
    first = some([f"{package} ({', '.join(ids[:3])}{', …' if ids[3:] else ''})" for package, ids in found.items()])
    return f"{before}not judged, because the versions aren't all PEP 440: {first}"


def permissions(request: ProbeRequest) -> ProbeOutcome:
    """Nobody else can change what runs here: no world-writable files, none of another user's."""
    prefix = Path(request.inputs["prefix"]).resolve()
    trusted = {0, os.getuid(), prefix.stat().st_uid}
    writable, foreign, closed, count = [], [], [], 0
    for folder in prefix.parents:  # whoever can write there can put another prefix in its place
        found = folder.stat()
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            writable.append(f"{folder}/")
    stack = [prefix]
    while stack:
        folder = stack.pop()
        found = folder.stat()
        if found.st_mode & stat.S_IWOTH:
            writable.append(f"{folder}/")
        try:
            entries = list(os.scandir(folder))
        except PermissionError:  # what we can't read we can't run either
            closed.append(str(folder))
            continue
        for entry in entries:
            count += 1
            found = entry.stat(follow_symlinks=False)
            if found.st_uid not in trusted:
                foreign.append(entry.path)
            if entry.is_dir(follow_symlinks=False):
                stack.append(Path(entry.path))
            elif not entry.is_symlink() and found.st_mode & stat.S_IWOTH:
                writable.append(entry.path)
    details = {"files": count, "writable": sorted(writable)[:50], "foreign": sorted(foreign)[:50], "unreadable": closed}
    problems, remedies = [], []
    if writable:
        problems.append(f"{len(writable):,} files and folders can be changed by everybody, e.g. {min(writable)}")
        outside = [name for name in writable if not Path(name).is_relative_to(prefix)]
        remedies += [f"chmod o-w '{name}'" for name in outside]
        remedies += [f"chmod -R o-w '{prefix}'"] if len(outside) < len(writable) else []
    if foreign:
        problems.append(f"{len(foreign):,} belong to another user, e.g. {min(foreign)}")
        remedies.append(f"as root: chown -R {prefix.stat().st_uid} '{prefix}'")
    if closed:
        problems.append(f"{len(closed):,} folders can't be looked into, e.g. {min(closed)}")
        remedies.append(f"chmod -R u+rX '{prefix}'")
    if problems:
        return warning("; ".join(problems), "; ".join(remedies), **details)
    return passed(f"{count:,} files and folders, none that others can change", **details)

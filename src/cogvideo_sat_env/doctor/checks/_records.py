"""Identity by what was recorded: the receipt, the lock, conda's records, and the bytes on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import _prefix, _verify
from ._prefix import key
from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, passed, some, warning

_SECONDS = 100.0  # for hashing; two idle cores need about 20 for 50,000 files and 8 GB


def receipt(request: ProbeRequest) -> ProbeOutcome:
    """The packages are those of the receipt, and the project's lock is still the one that they came from."""
    prefix, written = Path(request.inputs["prefix"]), request.inputs["receipt"]
    if not written:
        return not_run("not run: no receipt; this environment was not made by satenv")
    repair = f"{request.restore} (keeps what conda added, moves aside what pip did)"
    wanted = {item["name"]: (item["version"], item.get("build", "")) for item in written.get("packages") or []}
    there = _prefix.names(prefix)
    gone = [name for name in wanted if name not in there]
    # only a conda client writes records: what they say beyond the receipt was asked for there, and is no damage
    rebuilt = [name for name in wanted if name in there and there[name] != wanted[name]
               and there[name][0] == wanted[name][0]]  # fmt: skip
    differing = [_against(name, there[name], wanted[name]) for name in wanted
                 if name in there and name not in rebuilt and there[name] != wanted[name]]  # fmt: skip
    first = "cogvideo-sat-env"
    names = sorted(there.keys() - wanted.keys(), key=lambda name: (name != first, name))
    added = [f"{name} {there[name][0]}" for name in names]
    distributions = _prefix.installed()
    for pin in written.get("pip") or []:
        found = distributions.get(key(pin["name"]))
        if found is None:
            gone.append(f"{pin['name']} (pip)")
        elif not _same(found, pin["version"]):
            differing.append(f"{pin['name']} {found} (receipt: {pin['version']})")
    builds = [_against(name, there[name], wanted[name]) for name in rebuilt]
    details = {"missing": gone, "differing": differing, "rebuilt": builds, "added": added}
    since = f"; {_count(added, 'package')} added since: {some(added)}" if added else ""
    if builds:
        since += f"; {_count(builds, 'package')} since in another build of the same version: {some(builds)}"
    if gone:
        finding = f"{_count(gone, 'package')} of the receipt not in the environment: {some(gone)}"
        return failed(finding, repair, **details)
    if differing:
        finding = f"{_count(differing, 'package')} differ from the receipt: {some(differing)}{since}"
        asked = "if you asked conda, mamba or pip for that, it is no damage (identity.bounds: is it within the bounds?)"
        return warning(finding, f"{asked}; to have the lock's again: {repair}", **details)
    count = len(wanted) - len(builds) + len(written.get("pip") or [])
    finding = f"{count} packages as in the receipt (source {written.get('source')}){since}"
    if since:
        finding += "; installed on top by conda or mamba, which is no damage"
    lock = request.inputs["lock"]
    if not lock or lock["same"] is None:
        return passed(finding, **details)
    if lock["same"]:
        return passed(f"{finding}; the lock is the project's {lock['name']}" if since else
                      f"{finding} and in the project's {lock['name']}", **details)  # fmt: skip
    changes = _against_lock(lock["pins"], there | {name: wanted[name] for name in rebuilt}, distributions, set(wanted))
    if not changes:  # a comment, another platform
        return passed(f"{finding}; {lock['name']} has changed since, but not in these packages", **details)
    finding = (
        f"{finding}, but the project's {lock['name']} has changed since: {_count(changes, 'package')} differ:"
        f" {some(changes)}"
    )
    if (prefix / "conda-meta" / "frozen").exists():  # a deployed release: a newer lock is another release
        return passed(f"{finding}; a release stays as it was made", lock=changes, **details)
    remedy = f"to have the new lock: {{satenv}} update -p '{prefix}'"
    if added or builds:
        remedy += f", which leaves out what conda or mamba installed on top: {some([*added, *builds])}"
    return warning(finding, remedy, lock=changes, **details)


def _against(name: str, found: tuple[str, str], receipt: tuple[str, str]) -> str:
    return f"{name} {'-'.join(found)} (receipt: {'-'.join(receipt)})"


def overwritten(request: ProbeRequest) -> ProbeOutcome:
    """pip has replaced nothing that conda linked, and brought nothing that the receipt doesn't know."""
    prefix = Path(request.inputs["prefix"])
    owners: dict[str, _prefix.Record] = {}
    infos: dict[str, tuple[str, str]] = {}  # distribution: its version, and the conda package that brings it
    theirs, sites = set(), set()  # metadata folders that conda linked, and where
    for record in _prefix.records(prefix):
        for entry in record.paths:
            path = str(entry["_path"])
            owners[path] = record
            found = re.match(r"(.*site-packages)/(([^/]+?)-([^/-]+)(?:-[^/]+)?\.(?:dist|egg)-info)(?:/|$)", path)
            if found:
                site, info, name, version = found.groups()
                sites.add(site)
                theirs.add(f"{site}/{info}")
                infos[key(name)] = (version, record.name)
    if not owners:
        return not_run("not run: no conda packages here; this is no conda environment")
    known = {key(pin["name"]) for pin in (request.inputs["receipt"] or {}).get("pip") or []}
    replaced, added, details = [], [], {}
    culprits: list[str] = []
    for site in sorted(sites):
        for item in _prefix.distributions(prefix / site):
            name = key(item.name)
            if f"{site}/{item.info}" in theirs or name in known:
                continue
            by = item.installer or "an unknown installer"
            if name in infos:
                old = infos[name]
                replaced.append(f"{item.name} {item.version} by {by} over conda's {old[1]} {old[0]}")
                culprits.append(item.name)
            clobbered = sorted({owners[path].name for path in _record_files(prefix, site, item) if path in owners})
            clobbered = [package for package in clobbered if name not in infos or package != infos[name][1]]
            if clobbered:
                replaced.append(f"{item.name} {item.version} by {by} over files of conda's {', '.join(clobbered[:3])}")
                culprits.append(item.name)
            elif name not in infos:
                added.append(f"{item.name} {item.version}")
    details = {"replaced": replaced, "added": added}
    if replaced:
        return warning(
            f"installed over conda's packages: {some(replaced)}",
            f"have conda's again: '{prefix}/bin/python' -m pip uninstall -y {' '.join(dict.fromkeys(culprits))};"
            f" then {request.restore};"
            " packages of your own belong into an environment of their own, or after --no-deps", **details,
        )  # fmt: skip
    if added:
        return passed(f"nothing of conda's was replaced; added by pip since: {some(added)}", **details)
    return passed(f"{len(infos)} distributions, all conda's or the receipt's; nothing was replaced", **details)


def files(request: ProbeRequest) -> ProbeOutcome:
    """Every file has the size and the SHA-256 that were recorded when it was linked."""
    prefix = Path(request.inputs["prefix"])
    written = (request.inputs["receipt"] or {}).get("files") or {}
    wanted, bytecode = _verify.items(_prefix.records(prefix), written)
    if not wanted:
        return not_run("not run: no conda packages here, so no recorded hashes")
    unrecorded = sum(item.size is None and item.sha256 is None for item in wanted)
    found = _verify.verify(prefix, wanted, float(request.options.get("identity.seconds", _SECONDS)))
    what = f"{found.hashed:,} files ({found.hashed_bytes / 1e9:.1f} GB) by SHA-256"
    if found.not_hashed:
        what += f", {found.not_hashed:,} more only by size (time was up)"
    if unrecorded:
        what += f", {unrecorded:,} (links, no hash recorded) only for being there"
    what += f"; {bytecode:,} bytecode files left out"
    details: dict[str, Any] = {
        "hashed": found.hashed, "hashed_bytes": found.hashed_bytes, "by_size": found.not_hashed,
        "by_presence": unrecorded, "bytecode": bytecode,
        "missing": _first(found.missing), "changed": _first(found.changed),
    }  # fmt: skip
    if found.missing or found.changed:
        parts = []
        for word, group in (("missing", found.missing), ("changed", found.changed)):
            if group:
                examples = some([f"{owner}: {paths[0]}" for owner, paths in group.items()])
                parts.append(f"{sum(map(len, group.values())):,} {word} ({examples})")
        finding = f"of {len(wanted):,} recorded files {' and '.join(parts)}"
        return failed(finding, request.restore, verified=what, **details)
    return passed(f"as recorded: {what}", **details)


def _against_lock(
    pins: Iterable[str], conda: dict[str, tuple[str, str]], pip: dict[str, str], ours: set[str]
) -> list[str]:
    """Return what differs from lockfiles that name one package a line: explicit conda ones, pip requirements.

    Of the packages that no lockfile has, only those in `ours` count: others were installed on top.
    """
    changes, seen = [], set()
    for name in pins:
        for line in Path(name).read_text(encoding="utf-8").splitlines():
            explicit = re.match(r"\S*/([^/]+)-([^/-]+)-([^/-]+?)(?:\.conda|\.tar\.bz2)(?:#|$)", line)
            pinned = re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?\s*==\s*([^\s;\\]+)", line)
            if explicit:
                package, version = explicit.group(1), (explicit.group(2), explicit.group(3))
                found = conda.get(package)
                seen.add(package)
                if found != version:
                    changes.append(f"{package} {'-'.join(found) if found else 'missing'} (lock: {'-'.join(version)})")
            elif pinned:
                found_version = pip.get(key(pinned.group(1)))
                if found_version is None or not _same(found_version, pinned.group(2)):
                    changes.append(f"{pinned.group(1)} {found_version or 'missing'} (lock: {pinned.group(2)})")
    if seen:
        changes += [f"{package} {version[0]} (not in the lock)" for package, version in conda.items()
                    if package in ours - seen]  # fmt: skip
    return changes


def _same(first: str, second: str) -> bool:
    """Return whether two Python versions are equal: 2024.02.0 is 2024.2.0; a local part (+cu128) doesn't count."""
    one, other = _prefix.parsed(first), _prefix.parsed(second)
    return first == second if one is None or other is None else one.public == other.public


def _record_files(prefix: Path, site: str, item: _prefix.PipDistribution) -> list[str]:
    """Return the files of a distribution, as paths below the prefix."""
    path = prefix / site / item.info / "RECORD"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # an egg-info, or damaged: identity.files tells
        return []
    found = []
    for line in lines:
        name = line.rsplit(",", 2)[0].strip('"')
        parts = f"{site}/{name}".split("/")
        while ".." in parts[1:]:
            index = parts.index("..")
            del parts[index - 1 : index + 1]
        found.append("/".join(parts))
    return found


def _first(group: dict[str, list[str]]) -> dict[str, list[str]]:
    return {owner: sorted(paths)[:20] for owner, paths in group.items()}


def _count(items: list[str], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"

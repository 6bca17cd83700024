"""Verifying a lock itself, offline: entries whole, allowed and unique, dependencies satisfied inside the lock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import CondaArtefact, channel_url, split_archive, split_url
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.lock.read import WHAT, WHEELHOUSE, Document, Lock
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import conda_to_pypi
from cogvideo_sat_env.spec.variants import Variant

if TYPE_CHECKING:
    from rattler import PackageRecord

RELOCK = satenv("lock")


@dataclass(frozen=True)
class Mismatch:
    """One disagreement: where, what, and the command that corrects it."""

    file: str
    message: str
    remedy: str


def verify_entries(document: Document, name: str, channels: Sequence[str]) -> list[Mismatch]:
    """Check every entry of the lock `name`, as load_lock gave it, alone; `channels` are those of the spec."""
    data, lines = document
    allowed = [str(Address(channel_url(channel))) for channel in channels]
    findings: list[Mismatch] = []
    seen: dict[tuple[str, ...], int] = {}
    entries = data.get("package") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        return [Mismatch(f"{name}:1", f"expected {WHAT}", RELOCK)]
    platforms = set((data.get("metadata") or {}).get("platforms") or [])
    for index, entry in enumerate(entries):
        problems = list(_entry_problems(entry, allowed, platforms))
        key = tuple(str(entry.get(k)) for k in ("manager", "name", "platform")) if isinstance(entry, dict) else None
        if key is not None:
            if key in seen:
                problems.append(f"{key[1]} stands twice for {key[2]} (first on line {lines.of('package', seen[key])})")
            seen.setdefault(key, index)
        findings += [Mismatch(f"{name}:{lines.of('package', index)}", problem, RELOCK) for problem in problems]
    return findings


def _entry_problems(entry: object, allowed: list[str], platforms: set[str]) -> Iterable[str]:
    if not isinstance(entry, dict):
        yield "a package must be a mapping"
        return
    name, url = str(entry.get("name")), str(entry.get("url"))
    sha256 = str((entry.get("hash") or {}).get("sha256") or "")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        yield f"{name}: expected a SHA-256 of 64 hex digits, found {sha256!r}"
    if entry.get("platform") not in platforms:
        yield f"{name}: is for {entry.get('platform')!r}, which the lock's metadata doesn't name"
    if entry.get("manager") == "pip":
        if not re.fullmatch(re.escape(WHEELHOUSE) + r"/[A-Za-z0-9_.+!-]+\.(whl|tar\.gz|zip)", url):
            yield f"{name}: expected {WHEELHOUSE}/FILE (an index's host may stand in no lock), found {url!r}"
        return
    if entry.get("manager") != "conda":
        yield f"{name}: manager must be conda or pip, found {entry.get('manager')!r}"
        return
    channel, subdir, file_name = split_url(url)
    if channel not in allowed:
        yield f"{name}: {channel!r} is not a channel of the spec ({', '.join(allowed)})"
    if subdir not in (entry.get("platform"), "noarch"):
        yield f"{name}: subdir {subdir!r} is neither {entry.get('platform')!r} nor noarch"
    try:
        parts = split_archive(file_name)
    except ValueError as error:
        yield f"{name}: {error}"
        return
    if parts[:2] != (name, str(entry.get("version"))):
        yield f"{name} {entry.get('version')}: the URL is of {parts[0]} {parts[1]}"


def verify_solution(environment: Environment, variant: Variant, lock: Lock) -> list[Mismatch]:
    """Check that the lock satisfies the spec, and every dependency of every package within itself."""
    from rattler import MatchSpec  # conda's version logic is not ours

    conda = {artefact.name: artefact for artefact in lock.conda}
    records = {name: record_of(name, a.version, a.build, a.subdir) for name, a in conda.items()}
    for name, value in variant.virtual_packages.items():
        version, _, build = value.partition(" ")
        records[name] = record_of(name, version, build or "0", "noarch")
    versions = {name: artefact.version for name, artefact in conda.items()} | variant.virtual_packages
    findings: list[Mismatch] = []

    def satisfied(spec: str) -> bool:
        record = records.get(spec.split()[0])
        return record is not None and MatchSpec(spec).matches(record)

    for spec in environment.conda:
        if not satisfied(str(spec)):
            artefact = conda.get(spec.name)
            found = f"{artefact.version} {artefact.build}" if artefact else "nothing"
            message = f"{variant.platform}: the spec asks for '{spec}', the lock has {found}"
            findings.append(Mismatch(variant.lock, message, RELOCK))
    for artefact in lock.conda:
        for dependency in artefact.depends:
            if not satisfied(dependency):
                found = versions.get(dependency.split()[0], "nothing")
                message = f"{variant.platform}: {artefact.name} needs '{dependency}', the lock has {found}"
                findings.append(Mismatch(variant.lock, message, RELOCK))
    return findings + _verify_pip(environment, variant, lock)


def _verify_pip(environment: Environment, variant: Variant, lock: Lock) -> list[Mismatch]:
    # Python packages last: conda's xxhash is a C library, PyPI's xxhash is conda's python-xxhash
    artefacts = sorted(lock.conda, key=_is_python)
    versions = {conda_to_pypi(artefact.name): artefact.version for artefact in artefacts}
    findings = []
    for pin in lock.pip:
        key = canonicalize_name(pin.name)
        if any(conda_to_pypi(a.name) == key and _is_python(a) for a in lock.conda):
            message = f"{variant.platform}: {pin.name} comes from conda and from pip; one overwrites the other"
            findings.append(Mismatch(variant.lock, message, RELOCK))
        versions[key] = pin.version
    wanted = [(f"the spec asks for '{spec}'", spec.name, spec.specifier) for spec in environment.pip]
    wanted += [
        (f"{pin.name} needs '{dep}'", dep.split()[0], dep.partition(" ")[2]) for pin in lock.pip for dep in pin.depends
    ]
    for what, needed, specifier in wanted:
        version = versions.get(canonicalize_name(needed))
        if version is None or not _pip_satisfied(version, specifier):
            message = f"{variant.platform}: {what}, the lock has {version or 'nothing'}"
            findings.append(Mismatch(variant.lock, message, RELOCK))
    return findings


def _is_python(artefact: CondaArtefact) -> bool:
    return any(dependency.split()[0] == "python" for dependency in artefact.depends)


def _pip_satisfied(version: str, specifier: str) -> bool:
    """Whether a version satisfies poetry's constraint: PEP 440 clauses, `||` between alternatives, bare = exact."""
    try:
        parsed = Version(version)
        for alternative in specifier.split("||"):
            text = alternative.strip().replace(" ", "")
            if text in ("", "*"):
                return True
            text = f"=={text}" if text[0].isdigit() else text
            if SpecifierSet(text, prereleases=True).contains(parsed):
                return True
    except (InvalidVersion, InvalidSpecifier):
        return False
    return False


def record_of(name: str, version: str, build: str, subdir: str) -> PackageRecord:
    """Return a package as rattler matches specs against it."""
    from rattler import PackageName, PackageRecord, VersionWithSource
    from rattler.package import BuildString

    number = re.search(r"(\d+)$", build)
    return PackageRecord(
        PackageName(name), VersionWithSource(version), BuildString(build), int(number[1]) if number else 0, subdir
    )

"""Reads the packages of whatever a user names: a lock of any kind, a git revision of one, a receipt, a prefix."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import CondaArtefact, split_archive
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.lock.read import load_lock, lock_platforms, read_lock
from cogvideo_sat_env.report import facts as known
from cogvideo_sat_env.report.facts import Facts
from cogvideo_sat_env.report.formats import foreign
from cogvideo_sat_env.report.installed import of_prefix, of_receipt
from cogvideo_sat_env.report.inventory import Inventory, inventory, main_subdir, of_artefact, of_lock, of_pip, only
from cogvideo_sat_env.report.revision import read_revision
from cogvideo_sat_env.source.wheels.lockfile import read_wheel_lock
from cogvideo_sat_env.spec.variants import read_variants

EXPECTED = (
    "a conda-lock file, an explicit lockfile, a wheel lock, a receipt, a bundle, the folder of an environment, or "
    "REVISION:PATH"
)


def read(what: str | Path, platforms: Sequence[str] = ()) -> tuple[Inventory, ...]:
    """Return an inventory for each platform of `what` that is in `platforms` (none: all).

    `what` is a path, or REVISION:PATH where there is no such file. Raises InputError, naming the format that was found,
    for anything else, for a platform that isn't there; MissingToolError for a revision without git.
    """
    path = Path(what)
    if path.is_dir():
        found: tuple[Inventory, ...] = (of_prefix(path, project_facts()),)
    elif path.exists() and not path.is_file():  # a pipe, `diff <(git show …) …`: it can be read only once
        found = _read_content(_bytes(path, str(what)), str(what), "piped", project_facts())
    elif path.exists():
        found = _read_file(path, str(what))
    elif ":" in str(what) and "://" not in str(what):
        found = _read_revision(str(what))
    else:
        raise InputError(f"{what}: no such file; expected {EXPECTED}", "check the path, or run from the project")
    return only(found, platforms)


def project_facts() -> Facts:
    """Return the facts that the project carries; none outside of one."""
    try:
        return known.of_project(project_root())
    except InputError:
        return known.NONE


def _bytes(path: Path, source: str) -> bytes:
    """Return the file's bytes, not many more than a lock may have."""
    try:
        with open(path, "rb") as stream:
            return stream.read(yamlfile.MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; expected {EXPECTED}", "check its permissions") from error


def _read_file(path: Path, source: str, revision: tuple[str, Facts] | None = None) -> tuple[Inventory, ...]:
    """Read the file at `path`, called `source`; of a git revision, `revision` has its path there and its facts."""
    content = _bytes(path, source)
    head = content[:65536]
    facts = revision[1] if revision else project_facts()
    digest = hashlib.sha256(content).hexdigest()
    if re.search(rb"^@EXPLICIT\s*$", head, re.MULTILINE):
        found = _explicit(content, source, facts, digest)
        return (replace(found, variant=_variants(path, revision[0] if revision else None).get(found.platform)),)
    if re.search(rb"^# spec-sha256: ", head, re.MULTILINE):
        wheels = read_wheel_lock(path)
        pins = [of_pip(pin, facts) for pin in wheels.pins]
        return (inventory(source, "wheels", wheels.platform, pins, sha256=digest),)
    if head.lstrip().startswith(b"{") and b'"fingerprint"' in head:
        return (of_receipt(content, source, facts),)
    name = foreign(content)
    if name:
        raise InputError(f"{source}: is {name}; expected {EXPECTED}", "name the lock, or the environment made from it")
    document = load_lock(path)
    there = lock_platforms(path, document)
    variants = _variants(path, revision[0] if revision else None)
    return tuple(
        of_lock(read_lock(path, platform, facts.sizes, document), facts, source, variants.get(platform), digest)
        for platform in there
    )  # fmt: skip


def _read_revision(what: str) -> tuple[Inventory, ...]:
    found = read_revision(what)
    facts = known.of_revision(found.repository, found.commit, project_facts())
    return _read_content(found.content, what, found.path, facts)


def _read_content(content: bytes, source: str, inside: str, facts: Facts) -> tuple[Inventory, ...]:
    """Read what stands in no file of its own; `inside` is its path in a repository."""
    with scratch_folder("satenv-report-") as folder:
        path = Path(folder) / Path(inside).name
        path.write_bytes(content)
        try:
            return _read_file(path, source, (inside, facts))
        except InputError as error:  # that folder means nothing to anybody
            remedy = error.remedy and error.remedy.replace(str(path), source)
            raise InputError(error.message.replace(str(path), source), remedy) from error


def _variants(path: Path, inside: str | None) -> dict[str, str]:
    """Return the project's variants by platform whose lock, or what is rendered from it, the file is.

    `inside` is its path in a repository.
    """
    if inside is None:
        try:
            inside = path.resolve().relative_to(project_root().resolve()).as_posix()
        except (InputError, ValueError):
            return {}
    return {
        variant.platform: variant.id for variant in read_variants() if inside in (variant.lock, variant.explicit_lock)
    }


def _explicit(content: bytes, source: str, facts: Facts, digest: str) -> Inventory:
    packages, platform = [], ""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if text.startswith("# platform:"):
            platform = text.partition(":")[2].strip()
        if not text or text.startswith(("#", "@")):
            continue
        address, _, fragment = text.partition("#")
        url = Address(address)
        channel, subdir, file_name = url.package()
        try:
            name, version, build = split_archive(file_name)
        except ValueError as error:
            raise InputError(f"{source}:{number}: {url[:80]!r}; expected the URL of a conda package", None) from error
        digits = fragment.removeprefix("sha256:").lower()
        sha256, md5 = (digits, "") if len(digits) == 64 else ("", digits)
        packages.append(of_artefact(
            CondaArtefact(name, version, build, subdir, channel, file_name, url, sha256, md5), facts
        ))  # fmt: skip
    if not packages:
        raise InputError(f"{source}: an explicit lockfile without packages", "make it again")
    return inventory(source, "explicit", platform or main_subdir(packages), packages, sha256=digest)

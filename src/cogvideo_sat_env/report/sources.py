"""Reads the packages of whatever a user names: a lock of any kind, a git revision of one, a receipt, a prefix."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cogvideo_sat_env.base import git, yamlfile
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


def _read_file(path: Path, source: str, inside: str | None = None, facts: Facts | None = None) -> tuple[Inventory, ...]:
    """Read the file at `path`, called `source`; of a git revision, `inside` is its path there, `facts` are its own."""
    content = _bytes(path, source)
    head = content[:65536]
    facts = facts or project_facts()
    digest = hashlib.sha256(content).hexdigest()
    if re.search(rb"^@EXPLICIT\s*$", head, re.MULTILINE):
        found = _explicit(content, source, facts, digest)
        return (replace(found, variant=_variants(path, inside).get(found.platform)),)
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
    variants = _variants(path, inside)
    return tuple(
        of_lock(read_lock(path, platform, facts.sizes, document), facts, source, variants.get(platform), digest)
        for platform in there
    )  # fmt: skip


def _read_revision(what: str) -> tuple[Inventory, ...]:
    """Read the file that `REVISION:PATH` names, in the repository around the current folder, else in the project's."""
    revision, _, path = what.partition(":")
    if not revision or not path or revision.startswith("-"):
        raise InputError(f"{what!r}: expected REVISION:PATH", "write it as git does: HEAD~1:conda-lock.yml")
    folder = Path.cwd()
    try:
        git.output(folder, "rev-parse", "--show-toplevel")
    except InputError:
        folder = project_root()
    try:
        commit = git.output(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except InputError as error:
        raise InputError(
            f"{what}: {folder} has no revision {revision!r}, and there is no such file",
            "name a commit, branch or tag (git log), or a file; in a shallow clone: git fetch --unshallow",
        ) from error
    try:
        root = Path(git.output(folder, "rev-parse", "--show-toplevel").decode().strip())
        if path.startswith(("./", "../")):  # as git does: from the current folder, not from the root
            found = git.output(folder, "ls-tree", "--full-name", "--name-only", "-z", commit, path).decode()
            path = found.split("\0")[0] or path
        content = git.output(root, "cat-file", "blob", f"{commit}:{path}")
    except InputError as error:
        raise InputError(
            f"{what}: {revision} has no file {path!r}",
            f"the path is from the root of the repository: git ls-tree -r --name-only {revision}",
        ) from error
    return _read_content(content, what, path, known.of_revision(root, commit, project_facts()))


def _read_content(content: bytes, source: str, inside: str, facts: Facts) -> tuple[Inventory, ...]:
    """Read what stands in no file of its own; `inside` is its path in a repository."""
    with scratch_folder("satenv-report-") as folder:
        path = Path(folder) / Path(inside).name
        path.write_bytes(content)
        try:
            return _read_file(path, source, inside, facts)
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

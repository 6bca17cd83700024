"""The part of a package index that the pip part's solves can see: all files by project, requirements of candidates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.fetch import pip_config
from cogvideo_sat_env.fetch.index import IndexFile
from cogvideo_sat_env.lock import pip_index, pip_proxy
from cogvideo_sat_env.lock.frozen import frozen_projects
from cogvideo_sat_env.lock.make import Solver, iso
from cogvideo_sat_env.lock.pip_index import Project, ProjectRelease
from cogvideo_sat_env.lock.pip_proxy import FrozenPages, Pages, RefusalError, SitePages
from cogvideo_sat_env.lock.read import Lock
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pieces import pieces_of
from cogvideo_sat_env.spec.pypi_names import conda_to_pypi
from cogvideo_sat_env.spec.variants import derive, read_variants

YOUNG = 30  # days: the longest cool-down that a lock from the frozen metadata can keep
DEPTH = 3  # of the older releases that a requirement allows: the solver takes the newest, and goes back when it must
_Releases = Callable[[str, str], ProjectRelease | None]  # of a project and a version; None for one that wasn't frozen


def freeze_projects(
    root: Path, environment: Environment, locks: Mapping[str, Lock], solver: Solver, progress: Progress
) -> dict[str, Project]:
    """Return what pip's resolver can ask for, beginning with the pip part of every variant; none without one.

    All files of a project; the requirements of the newest release, and, of what each requirement allows, those of the
    last YOUNG days, of DEPTH older ones and of all down to the one that the locks hold. What conda brings in a lock is
    not asked for. What was uploaded after the solver's `until` is left out. Raises SourceError, InputError.
    """
    asked: dict[str, set[str]] = {}
    for variant in read_variants():
        own = derive(environment, variant, root / variant.environment).pip
        pieces = [piece.pip for piece in pieces_of(environment, variant.pip) if piece.pip]  # should one go back to pip
        for spec in (*own, *pieces):
            asked.setdefault(canonicalize_name(spec.name), set()).add(spec.specifier)
    if not asked:
        return {}
    pinned: dict[str, set[str]] = {}
    for lock in locks.values():
        for pin in lock.pip:
            asked.setdefault(canonicalize_name(pin.name), set())
            pinned.setdefault(canonicalize_name(pin.name), set()).add(pin.version)
    brought = {conda_to_pypi(artefact.name) for lock in locks.values() for artefact in lock.conda}
    wanted = _Wanted(iso(solver.until), asked, pinned, brought)
    if solver.frozen and (kept := frozen_projects(solver.frozen)) is not None:
        return _closure(FrozenPages(kept), lambda name, version: kept[name].releases.get(version), wanted)
    progress.say(f"Asking the package index for {len(asked)} projects and what they need")
    pages = SitePages(pip_config.index_urls()[0])
    with scratch_folder("satenv-index-") as work, pip_proxy.proxy(pages, {}, wanted.until) as served:
        return _closure(pages, _requirements(served.url, work), wanted)


@dataclass(frozen=True)
class _Wanted:
    """What is to be frozen: specifiers and locked versions by project; not what conda brings, or came after `until`."""

    until: str
    asked: Mapping[str, set[str]]
    pinned: Mapping[str, set[str]]
    brought: set[str]


def _requirements(url: str, work: Path) -> _Releases:
    """Return the reader of a release's requirements on the index at `url`, as conda-lock's own resolver finds them."""
    from conda_lock._vendor.poetry.config.config import Config
    from conda_lock._vendor.poetry.core.constraints.version import Version as PoetryVersion
    from conda_lock._vendor.poetry.repositories.legacy_repository import LegacyRepository

    config = Config()
    config.merge({"cache-dir": str(work)})

    def read(name: str, version: str) -> ProjectRelease:
        try:
            site = LegacyRepository("site", url, config=config, disable_cache=True)  # one a thread
            found = site.get_release_info(canonicalize_name(name), PoetryVersion.parse(version))
        except Exception as error:  # the resolver has many, of its own and of what it calls
            raise SourceError(
                f"{name} {version}: its requirements can't be read from the package index: {error}", None
            ) from error
        return ProjectRelease(tuple(sorted(found.requires_dist or ())), found.requires_python or "")

    return read


def _files(pages: Pages, name: str, until: str) -> tuple[IndexFile, ...]:
    try:
        files = pages.files(name)
    except RefusalError as error:
        if isinstance(pages, FrozenPages):
            raise SourceError(f"{name}: {error}", "freeze from the package index") from error
        raise SourceError(
            f"the package index refused {name}: {error}", "check pip's index-url (pip config list) and the network"
        ) from error
    kept = (file for file in files if not file.is_yanked and file.sha256 and pip_index.release_of(file.file_name))
    return tuple(file for file in kept if not (until and file.uploaded > until))


def _closure(pages: Pages, read: _Releases, wanted: _Wanted) -> dict[str, Project]:
    """Return the projects asked for, and those that their candidates require, until none is new."""
    files: dict[str, tuple[IndexFile, ...]] = {}
    releases: dict[str, dict[str, ProjectRelease]] = {}
    bounds = {name: set(texts) for name, texts in wanted.asked.items()}
    extras: dict[str, set[str]] = {}
    todo = set(bounds)
    with ThreadPoolExecutor(8) as pool:
        while todo:
            new = sorted(todo - set(files))
            files |= dict(zip(new, pool.map(lambda name: _files(pages, name, wanted.until), new), strict=True))
            candidates = [
                (name, version)
                for name in sorted(todo)
                for version in _candidates(files[name], bounds[name], wanted.pinned.get(name, set()))
                if version not in releases.setdefault(name, {})
            ]
            found = pool.map(lambda item: read(*item), candidates)
            for (name, version), release in zip(candidates, found, strict=True):
                if release is not None:
                    releases[name][version] = release
            todo = {
                requirement.name
                for name in todo
                for release in releases[name].values()
                for requirement in _needs(release, extras.get(name, set()))
                if requirement.name not in wanted.brought and _is_new(requirement, bounds, extras)
            }
    return {name: Project(files[name], releases[name]) for name in files}


def _candidates(files: Iterable[IndexFile], specifiers: set[str], pinned: set[str]) -> list[str]:
    """Return the versions whose requirements are kept."""
    files = tuple(files)
    versions = pip_index.newest(files)
    young = _young(files)
    wanted = [version for version in versions if str(version) in pinned or version == versions[0]]
    oldest = min((version for version in versions if str(version) in pinned), default=None)
    for specifier in specifiers:
        allowed = [v for v in versions if SpecifierSet(specifier).contains(v, prereleases=v.is_prerelease)]
        # the solver may have looked into all down to what it locked, one that passes over young ones below those
        older = [v for v in allowed if str(v) not in young]
        wanted += [v for v in allowed if str(v) in young or v in older[:DEPTH] or (oldest and v >= oldest)]
    return [str(version) for version in dict.fromkeys(wanted)]


def _young(files: Sequence[IndexFile]) -> set[str]:
    """Return the versions that were uploaded in the last YOUNG days of a project's history."""
    last = max((file.uploaded for file in files), default="")
    if not last:
        return set()
    since = (datetime.fromisoformat(last) - timedelta(days=YOUNG)).isoformat()
    return {str(pip_index.release_of(file.file_name)) for file in files if file.uploaded > since}


def _needs(release: ProjectRelease, extras: set[str]) -> Iterator[Requirement]:
    """Yield what a release requires on any platform, with these extras of it; names are normalised."""
    for text in release.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # the resolver passes over it as well
            continue
        optional = re.findall(r"extra == [\"']([^\"']+)", str(requirement.marker or ""))
        if not optional or extras & {canonicalize_name(extra) for extra in optional}:
            requirement.name = canonicalize_name(requirement.name)
            yield requirement


def _is_new(requirement: Requirement, bounds: dict[str, set[str]], extras: dict[str, set[str]]) -> bool:
    """Note what is asked of a project; return whether it was not known before."""
    specifier, more = str(requirement.specifier), {canonicalize_name(extra) for extra in requirement.extras}
    known, before = bounds.setdefault(requirement.name, set()), extras.setdefault(requirement.name, set())
    is_new = specifier not in known or not more <= before
    known.add(specifier)
    before |= more
    return is_new

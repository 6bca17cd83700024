"""Makes everything that a prefix is to hold in a staging directory beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.hashing import describe
from cogvideo_sat_env.base.permissions import cache_umask
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.fetch.wanted import Policy, Wanted, artefact_path
from cogvideo_sat_env.install import (
    activation,
    archive,
    bytecode,
    conda_meta,
    layout,
    link,
    outcome,
    own_files,
    pip_stage,
    prefix_python,
    receipt,
)  # fmt: skip
from cogvideo_sat_env.install.extractor import Extractor
from cogvideo_sat_env.install.job import Clock, Job
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.install.package_cache import PackageCache
from cogvideo_sat_env.install.package_manifest import PackageManifest
from cogvideo_sat_env.install.post_link import LinkScript
from cogvideo_sat_env.install.workers import WorkerPool

_JOBS = 16  # small packages come as fast as a server answers: more at once hide its latency
_SCRIPT = {"path_type": "unix_python_entry_point"}


def provide(job: Job) -> dict[str, PackageManifest]:
    """Have every package extracted and verified in the package cache; return the manifests by SHA-256 of the archive.

    Plain files of what is there already are compared with the manifest when they are linked. What isn't there is
    fetched, and extracted while the next is on its way; with the option `full` that is everything. Raises the
    errors of base/errors.py.
    """
    artefacts, progress = job.plan.artefacts, job.progress
    package_cache = PackageCache(job.cache, job.layers, progress, job.options.full)
    manifests = package_cache.find(artefacts, plain=False)
    missing = list({a.sha256: a for a in artefacts if a.sha256 not in manifests}.values())
    if not missing:
        return manifests
    with cache_umask(), Extractor(package_cache.packages, compare=job.options.full) as extractor:
        there = package_cache.archives_in_layers(missing)
        for artefact in missing:
            if artefact.sha256 in there:
                extractor.add(artefact, there[artefact.sha256])
        absent = [a for a in missing if a.sha256 not in there]
        if absent:
            _fetch(job, absent, extractor)
        extractor.finish(progress)
    return manifests | package_cache.load(missing)


def _fetch(job: Job, artefacts: Sequence[CondaArtefact], extractor: Extractor) -> None:
    """Bring archives into the cache; what it already has is hashed again. Each is extracted as soon as it is proven."""
    from cogvideo_sat_env.fetch.pool import fetch_files  # the HTTP client loads slowly; not every caller fetches

    wanted = {}
    for artefact in artefacts:
        path, urls = artefact_path(job.cache, artefact.sha256, artefact.file_name), job.plan.source.locate(artefact)
        each = Wanted(artefact.file_name, path, artefact.sha256, tuple(urls), artefact.size, artefact.relock)
        wanted[each] = artefact
    fetch_files(
        list(wanted),
        title=f"Fetching and verifying {len(wanted)} packages",
        what="the download of the packages",
        progress=job.progress,
        policy=Policy(jobs=_JOBS),
        ready=lambda item: extractor.add(wanted[item], item.path),
    )


def inspect(job: Job, manifests: Mapping[str, PackageManifest]) -> Layout:
    """Read what the packages say of themselves; return where they go.

    Raises PrefixError (prefix too long), VerificationError for what isn't possible in the prefix, or together.
    """
    packages = archive.read_packages(job.plan.artefacts, manifests)
    archive.require_prefix_fits(job.embedded, packages)
    archive.require_no_link_out(packages)
    scripts = activation.load().scripts
    found = layout.of(packages)
    for each in found.placed:
        artefact = each.package.artefact
        claims = [*zip(each.targets, each.package.paths, strict=True), *((path, _SCRIPT) for path in each.scripts)]
        own_files.refuse_claims(artefact.file_name, claims, scripts)
        if artefact.name != "python":
            own_files.refuse_pythons(artefact.file_name, each.claimed)
    return found


def forget(job: Job, manifests: Mapping[str, PackageManifest], changed: link.Changed) -> None:
    """Have the packages that are `changed` extracted again by the next `provide`."""
    package_cache = PackageCache(job.cache, job.layers, job.progress)
    names = {job.plan.artefacts[number]: name for number, name in changed.files.items()}
    package_cache.forget({artefact: (manifests[artefact.sha256].folder, name) for artefact, name in names.items()})


def stage(
    job: Job, manifests: Mapping[str, PackageManifest], root: Path, clock: Clock, workers: WorkerPool
) -> tuple[InstallOutcome, list[LinkScript]]:
    """Make everything in `root`, written for `job.prefix`; return what was made, and the link scripts that may run.

    Raises link.Changed, and the errors of base/errors.py.
    """
    prefix, progress, plan = job.embedded, job.progress, job.plan
    with link.Linker(root) as linker:
        with clock.stage("inspect"):
            where = inspect(job, manifests)
            packages = [each.package for each in where.placed]
            archive.require_case_fits(root, packages)
        with clock.stage("link"):
            linker.link(job, where, workers)
    # rattler marks prefixes as caches, which back-up programs would leave out
    (root / "CACHEDIR.TAG").unlink(missing_ok=True)
    noarch = any(package.noarch_python for package in packages)
    python = prefix_python.find(root) if plan.pip_pins or noarch else None
    with clock.stage("bytecode"):
        if python and noarch:
            bytecode.compile_noarch(job, python, where, workers)
    with clock.stage("records"):
        tag = python.cache_tag if python else None
        conda_meta.complete(job, where.placed, root, tag, workers)
    collisions = layout.collisions(where)
    manifest: dict[str, dict[str, object]] = {}
    with clock.stage("pip"):
        if python and plan.pip_pins:
            fetched = pip_stage.fetch_pins(python, plan.pip_pins, job.cache, progress, plan.source.find_links())
            with (
                diskspace.watch(Path(tempfile.gettempdir()), "the pip packages (TMPDIR)"),
                scratch_folder("satenv-build-") as scratch,
            ):
                wheels = pip_stage.build_wheels(python, plan.pip_pins, fetched, scratch, progress)
                wheels |= pip_stage.patch(plan.pip_pins, wheels, plan.patches, scratch / "patched")
                with diskspace.watch(root.parent, "the pip packages"):
                    manifest |= pip_stage.lay_out(python, plan.pip_pins, wheels, prefix, progress)
    with clock.stage("activation"):
        generated = activation.install(root, prefix, activation.load(), plan.variables)
        manifest |= {name: describe(root / name) for name in generated}
        scripts = [LinkScript(p, name) for p in packages for name in p.link_scripts]
        allowed = [s for s in scripts if job.options.may_run(s.package.artefact.name) and s.runs_after_linking]
        refused = [str(script) for script in scripts if script not in allowed]
        facts = {
            "link_scripts_not_run": refused, "link_scripts_run": list(map(str, allowed)), "collisions": collisions
        }  # fmt: skip
        receipt.write(root, receipt.build(job, manifest, facts))
        if allowed:
            own_files.write(root, own_files.PENDING, b"")
    return replace(
        outcome.of(job, "created", clock),
        files=sum(len(package.paths) for package in packages) + len(manifest) + 1,
        bytes=sum(package.manifest.archive_size for package in packages),
        collisions=tuple(collisions),
        link_scripts=tuple(refused),
    ), allowed

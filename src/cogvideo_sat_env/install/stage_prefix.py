"""Makes everything that a prefix is to hold in a staging directory beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.hashing import describe
from cogvideo_sat_env.base.permissions import cache_umask
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.fetch import archives
from cogvideo_sat_env.install import (
    activation,
    archive,
    bytecode,
    conda_meta,
    layout,
    link,
    own_files,
    pip_stage,
    prefix_python,
    receipt,
)  # fmt: skip
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.bytecode_cache import BytecodeCache
from cogvideo_sat_env.install.extractor import Extractor
from cogvideo_sat_env.install.job import Clock, Job
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.package_cache import PackageCache
from cogvideo_sat_env.install.package_manifest import PackageManifest
from cogvideo_sat_env.install.post_link import LinkScript, mark_pending
from cogvideo_sat_env.install.workers import WorkerPool

_SCRIPT = {"path_type": "unix_python_entry_point"}


@dataclass(frozen=True)
class StagedPrefix:
    """What was staged: the count of files, the bytes of the packages, paths that two ship, and the link scripts."""

    files: int
    bytes: int
    collisions: tuple[str, ...]
    link_scripts: tuple[str, ...]
    allowed_scripts: tuple[LinkScript, ...]


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
            archives.fetch(
                absent, locate=job.plan.source.locate, cache=job.cache, progress=progress, ready=extractor.add
            )
        extractor.finish(progress)
    return manifests | package_cache.load(missing)


def inspect(job: Job, manifests: Mapping[str, PackageManifest]) -> tuple[list[ExtractedPackage], Layout]:
    """Read what the packages say of themselves; require that they are possible in the prefix, and together.

    Raises PrefixError (prefix too long), VerificationError.
    """
    packages = archive.read_packages(job.plan.artefacts, manifests)
    archive.require_prefix_fits(job.embedded, packages)
    archive.require_no_link_out(packages)
    scripts = activation.load().scripts
    found = layout.of(packages)
    for package, names in zip(packages, found.targets, strict=True):
        claims = [*zip(names, package.paths, strict=True), *((s.path, _SCRIPT) for s in package.entry_points)]
        own_files.refuse_claims(package.artefact.file_name, claims, scripts)
        if package.artefact.name != "python":
            own_files.refuse_pythons(package.artefact.file_name, found.claimed.intersection(name for name, _ in claims))
    return packages, found


def forget(job: Job, manifests: Mapping[str, PackageManifest], changed: link.Changed) -> None:
    """Have the packages that are `changed` extracted again by the next `provide`."""
    package_cache = PackageCache(job.cache, job.layers, job.progress)
    names = {job.plan.artefacts[number]: name for number, name in changed.files.items()}
    package_cache.forget({artefact: (manifests[artefact.sha256].folder, name) for artefact, name in names.items()})


def stage(
    job: Job, manifests: Mapping[str, PackageManifest], root: Path, clock: Clock, workers: WorkerPool
) -> StagedPrefix:
    """Make everything in `root`, written for `job.prefix`. Raises link.Changed, and the errors of base/errors.py."""
    prefix, progress, plan = job.embedded, job.progress, job.plan
    with link.Linker(root) as linker:
        with clock.stage("inspect"):
            packages, paths = inspect(job, manifests)
            archive.require_case_fits(root, packages)
        with clock.stage("link"):
            linker.link(job, packages, paths, workers)
    # rattler marks prefixes as caches, which back-up programs would leave out
    (root / "CACHEDIR.TAG").unlink(missing_ok=True)
    noarch = any(package.noarch_python for package in packages)
    python = prefix_python.find(root) if plan.pip_pins or noarch else None
    with clock.stage("bytecode"):
        if python and noarch:
            kept = BytecodeCache(job.cache, python, job.options.full)
            bytecode.compile_noarch(python, packages, paths, kept, workers, progress)
    with clock.stage("records"):
        tag = python.cache_tag if python else None
        conda_meta.complete(job, packages, paths, root, tag, workers)
    collisions = layout.collisions(packages, paths)
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
                    manifest |= pip_stage.lay_out(python, plan.pip_pins, wheels, prefix, progress).manifest
    with clock.stage("activation"):
        generated = activation.install(root, prefix, activation.load(), plan.variables)
        manifest |= {name: describe(root / name) for name in generated}
        scripts = [LinkScript.of(p, name) for p in packages for name in p.link_scripts]
        allowed = tuple(s for s in scripts if job.options.may_run(s.package) and s.runs_after_linking)
        refused = tuple(str(script) for script in scripts if script not in allowed)
        facts = {
            "link_scripts_not_run": list(refused), "link_scripts_run": [str(script) for script in allowed],
            "collisions": list(collisions),
        }  # fmt: skip
        receipt.write(root, receipt.build(job, manifest, facts))
        if allowed:
            mark_pending(root)
    files = sum(len(package.paths) for package in packages)
    size = sum(package.manifest.archive_size for package in packages)
    return StagedPrefix(files + len(manifest) + 1, size, tuple(collisions), refused, allowed)

"""`satenv bundle install`: every byte proven, packages extracted straight out of the bundle, then the ordinary install.

The bundle is read once: what is needed is extracted while it is proven, everything else is proven only. The prefix is
not touched before all of it is right.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import cache_use, diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.files import replacing
from cogvideo_sat_env.base.paths import cache_dir, current_platform
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.bundle.container import Bundle, Member, open_bundle
from cogvideo_sat_env.bundle.unpack_tool import unpack_project
from cogvideo_sat_env.bundle.verify_bundle import Write, verify
from cogvideo_sat_env.create import create as creation
from cogvideo_sat_env.create import source_plan
from cogvideo_sat_env.fetch.wanted import artefact_path
from cogvideo_sat_env.install import package_cache, receipt
from cogvideo_sat_env.install.extractor import PROCESSES, Extractor
from cogvideo_sat_env.install.job import Plan
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.install.transaction import require_usable
from cogvideo_sat_env.report import signature
from cogvideo_sat_env.source.mirror.selection import OWN, OWN_LOCKS, WHEELHOUSE, Part, part_from_json
from cogvideo_sat_env.source.source import Source
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.variants import Variant, choose_variant, guess_device, read_variants


def install_bundle(
    path: Path,
    request: creation.CreateRequest,
    progress: Progress,
    *,
    base: Path | None = None,
    signers: Path | None = None,
    identity: str | None = None,
    older: bool = False,
) -> InstallOutcome:
    """Make the environment that `request` is about out of the bundle at `path`, without network.

    `older`: also over an environment of a newer bundle. Raises VerificationError (a byte differs, wrong signer),
    InputError (wrong platform, base or volume missing, an older bundle), and what installing raises.
    """
    bundle = open_bundle(path, base)
    if signers:
        progress.say(f"{path.name}: signed by {signature.check(path, bundle.tail, signers, identity)}")
    bundle.require_base()
    cache = cache_dir()
    part, options = _choose(bundle, request.variant), request.options
    root = unpack_project(bundle, cache)
    environment = read_environment(root / "environment.yml")
    wheels = bundle.manifest["source"] == "wheels"
    plan = _wheels_plan(bundle, part, environment) if wheels else _lock_plan(root, part, environment)
    start = time.perf_counter()
    with cache_use.in_use(cache, progress), scratch_folder("unpack-", cache / "bundles") as scratch:
        if wheels:
            made, archive = _python_package(part, request.python, scratch)
            plan = replace(plan, artefacts=[*plan.artefacts, made])
        target = creation.target_prefix(request.prefix, request.name, environment)
        target = request.place(plan) if request.place else target
        creation.require_buildable(target, _variant(part))
        found = receipt.read(target)
        if not options.repair and receipt.is_up_to_date(target, found, plan.fingerprint):
            return InstallOutcome(target, "up-to-date", "bundle", plan.facts["variant"], packages=plan.packages)
        plan = replace(plan, facts={**plan.facts, "bundle": _history(bundle, target, found, older)})
        require_usable(target, plan, options)  # before minutes of proving
        if wheels:
            with Extractor(package_cache.PackageCache(cache, (), progress).packages) as extractor:
                extractor.run(made, archive)
        _prove_and_extract(bundle, part, cache, progress)
        outcome = creation.install_plan(target, plan, options, progress)
    proving = time.perf_counter() - start - sum(outcome.seconds.values())
    outcome = replace(outcome, seconds={"prove and extract": proving, **outcome.seconds})
    return (
        creation.prove(outcome, progress) if request.doctor and outcome.status in ("created", "replaced") else outcome
    )


def _history(bundle: Bundle, target: Path, found: Mapping[str, Any] | None, older: bool) -> dict[str, Any]:
    """Return what the receipt keeps of the bundle, so that nobody's old one, signed as it is, takes its place unseen.

    Raises InputError where the prefix was made from a newer one, unless `older`.
    """
    made, before = bundle.manifest.get("made", 0), (found or {}).get("bundle") or {}
    history = [*before.get("before", ()), *([before["id"]] if before else ())]
    if before and before["id"] != bundle.id and not older and (made < before["made"] or bundle.id in history):
        raise InputError(
            f"{bundle.path}: is older than the bundle that {target} was made from ({before['id'][:16]})",
            "install the newer one; to go back on purpose, add --older",
        )
    return {"id": bundle.id, "made": made, "before": [entry for entry in history if entry != bundle.id]}


def _choose(bundle: Bundle, device: str) -> Part:
    """Return the part of the bundle that is meant for this machine. Raises InputError naming what there is."""
    try:
        parts = [part_from_json(name, data) for name, data in bundle.manifest["parts"].items()]
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise VerificationError(f"{bundle.path}: its manifest can't be read: {error}", "pack it again") from error
    here = [part for part in parts if part.platform == current_platform()]
    if not here:
        there = ", ".join(sorted(part.variant for part in parts))
        raise InputError(f"{bundle.path}: has nothing for {current_platform()}; it has {there}", "pack one for it")
    if device == "auto" and len(here) == 1:
        return here[0]
    wanted = guess_device(current_platform())[0] if device == "auto" else device
    devices = {variant.id: variant.device for variant in read_variants()}
    match = next((part for part in here if devices.get(_base_variant(part), "cuda") == wanted), None)
    if match is None:
        raise InputError(
            f"{bundle.path}: has no variant for {wanted}; it has {', '.join(p.variant for p in here)}",
            "choose another --variant",
        )
    return match


def _base_variant(part: Part) -> str:
    return part.variant.partition(OWN)[0]


def _variant(part: Part) -> Variant:
    variants = read_variants()
    found = next((variant for variant in variants if variant.id == _base_variant(part)), None)
    return found or choose_variant(variants, part.platform, "cuda")


def _lock_plan(root: Path, part: Part, environment: Environment) -> Plan:
    variant = _variant(part)
    if OWN in part.variant:
        variant = variant.with_lock(root, root / OWN_LOCKS / part.lock)
    plan = source_plan.lock_plan(root, environment, variant, Source("bundle"))
    plan = replace(plan, facts={**plan.facts, "lock": part.lock})
    ours = {(item.artefact.sha256, item.artefact.url) for item in part.conda}
    if {(a.sha256, a.url) for a in plan.artefacts} != ours or {p.sha256 for p in plan.pip_pins} != {
        p.sha256 for p in part.pip
    }:
        raise VerificationError(f"{root / part.lock}: differs from the bundle's own list of packages", "pack it again")
    return plan


def _wheels_plan(bundle: Bundle, part: Part, environment: Environment) -> Plan:
    specs = bundle.manifest["specs"]
    facts: dict[str, Any] = {
        "variant": "wheels", "lock": part.lock.rpartition("/")[2], "lock_sha256": part.lock_sha256,
        "inputs": f"bundle {bundle.id}", "data_only": False, "not_provided": bundle.manifest["not_provided"],
    }  # fmt: skip
    variables = source_plan.kept_variables(environment, _variant(part))
    artefacts = [item.artefact for item in part.conda]
    return Plan(Source("bundle"), part.platform, artefacts, (), specs, variables, facts)


def _python_package(part: Part, named: Path | None, scratch: Path) -> tuple[CondaArtefact, Path]:
    """Make the package `python` of an interpreter of this machine: the one that is named, or the running one.

    Raises InputError unless it is of the minor version that the wheels are for.
    """
    from rattler_build import assemble_package, collect_files

    from cogvideo_sat_env.base.hashing import sha256_file
    from cogvideo_sat_env.source.wheels.interpreter import BUILD, lay_out_python, probe

    interpreter = probe(named or Path(sys.executable))
    if interpreter.tag != part.variant.rpartition("-")[2]:
        raise InputError(
            f"{named or sys.executable}: Python {interpreter.version}; this bundle's packages are for "
            f"{part.variant.rpartition('-')[2]}",
            "run the bundle with that Python, or name one with --python",
        )
    stage = scratch / "stage"
    lay_out_python(interpreter, stage)
    made = assemble_package(
        "python", interpreter.version, part.platform, BUILD, scratch, license="Python-2.0", compression_level=1,
        files=collect_files(stage, include_hidden=True), timestamp=datetime.fromtimestamp(EPOCH, timezone.utc),
        detect_prefix=False,
    )  # fmt: skip
    archive, base = Path(made.path), part.conda[0].artefact.channel
    artefact = CondaArtefact(
        "python", interpreter.version, BUILD, part.platform, base, archive.name,
        f"{base}/{part.platform}/{archive.name}", sha256_file(archive), size=archive.stat().st_size,
    )  # fmt: skip
    return artefact, archive


def _prove_and_extract(bundle: Bundle, part: Part, cache: Path, progress: Progress) -> None:
    artefacts = {f"channel/{item.path}": item.artefact for item in part.conda}
    pins = {f"{WHEELHOUSE}/{pin.file_name}": pin for pin in part.pip}
    for path, item in [*artefacts.items(), *pins.items()]:
        if path not in bundle.members or bundle.members[path].sha256 != item.sha256:
            raise VerificationError(f"{bundle.path}: lacks {path} with SHA-256 {item.sha256}", "pack it again")
    packages = package_cache.PackageCache(cache, (), progress)
    there = packages.find(list(artefacts.values()))
    missing = {path: a for path, a in artefacts.items() if a.sha256 not in there}
    _require_space(bundle, part, missing, cache, progress)
    total = sum(member.size for member in bundle.members.values())
    with (
        diskspace.watch(cache, "the extracted packages"),
        scratch_folder("unpack-", cache / "bundles") as scratch,
        Extractor(packages.packages) as extractor,
        progress.task(f"Proving {len(bundle.members)} files, extracting {len(missing)}", total, "bytes") as task,
    ):

        def take(member: Member) -> AbstractContextManager[Write] | None:
            if member.path in missing:
                return _extract(missing[member.path], scratch, extractor)
            if member.path in pins:
                return _keep(pins[member.path], cache)
            return None

        verify(bundle, take=take, seen=task.advance, jobs=extractor.count)


@contextmanager
def _extract(artefact: CondaArtefact, scratch: Path, extractor: Extractor) -> Iterator[Write]:
    """Take a package: an archive for a moment, then extracted, then gone."""
    # the name decides how it is read, and two channels may use the same one
    archive = scratch / artefact.sha256[:16] / artefact.file_name
    archive.parent.mkdir()
    try:
        with open(archive, "wb") as stream:
            yield stream.write
        extractor.run(artefact, archive)
    finally:
        shutil.rmtree(archive.parent, ignore_errors=True)


@contextmanager
def _keep(pin: PipPin, cache: Path) -> Iterator[Write]:
    """Take a pip file: small, and kept where the pip stage looks for it."""
    path = artefact_path(cache, pin.sha256, pin.file_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as side, open(side, "wb") as stream:
        yield stream.write


def _require_space(
    bundle: Bundle, part: Part, missing: dict[str, CondaArtefact], cache: Path, progress: Progress
) -> None:
    installed = {f"channel/{e['path']}": e["installed_bytes"] for e in bundle.manifest["parts"][part.variant]["conda"]}
    largest = sorted((bundle.members[path].size for path in missing), reverse=True)[:PROCESSES]
    needed = sum(installed[path] for path in missing) + sum(largest)
    progress.say(
        f"Needs {human_bytes(needed)} in {cache}: {len(missing)} packages are extracted there, and the environment "
        "links to them"
    )
    diskspace.require(cache, needed, "the extracted packages")

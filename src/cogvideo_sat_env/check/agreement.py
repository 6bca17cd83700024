"""`satenv check`: whether spec, floors, ledger, generated files, locks and recipe agree. Offline."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.check.recipe import LEDGER, check_recipe, of_entry
from cogvideo_sat_env.lock import conda_lock, render
from cogvideo_sat_env.lock.freeze import asked_names
from cogvideo_sat_env.lock.frozen import MANIFEST, frozen_hashes, read_manifest
from cogvideo_sat_env.lock.read import Document, Lock, load_lock, read_lock
from cogvideo_sat_env.lock.render_recipe import RECIPE, recipe_files
from cogvideo_sat_env.lock.verify_lock import RELOCK, Mismatch, verify_entries, verify_solution
from cogvideo_sat_env.source.wheels.lockfile import lock_name, read_wheel_lock, spec_hash
from cogvideo_sat_env.source.wheels.names import divide
from cogvideo_sat_env.spec import placement
from cogvideo_sat_env.spec.breakage import Ledger, read_ledger
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec, read_environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.requirements import Requirement, read_requirements
from cogvideo_sat_env.spec.variants import Variant, derive, read_variants

RENDER = satenv("lock --render")
RELOCK_WHEELS = satenv("lock --wheels")
METADATA = "metadata"
FREEZE = satenv(f"freeze {METADATA}")
VARIANTS = "src/cogvideo_sat_env/data/variants.yml"


def check_project(root: Path) -> list[Mismatch]:
    """Return every disagreement between the files of the project at `root`, none when all agree.

    Raises InputError when environment.yml, the ledger, the requirements or the variants can't be read at all.
    """
    environment = read_environment(root / "environment.yml")
    requirements, ledger, variants = read_requirements(), read_ledger(), read_variants()
    findings = check_floors(environment, requirements, "environment.yml")
    findings += check_ledger(environment, requirements, ledger)
    findings += check_proofs(root, ledger)
    for variant in variants:
        if not variant.is_primary:
            derived = derive(environment, variant, root / variant.environment)
            wanted = [r for r in requirements if not (variant.data_only and r.training)]
            findings += check_floors(derived, wanted, VARIANTS, variant)
    findings += _compare(root, render.environment_files(environment, variants))
    found, locks = _check_locks(root, environment, variants, ledger)
    findings += found
    findings += _check_wheel_locks(root, environment)
    findings += _check_metadata(root, environment, locks)
    return findings + check_recipe(root, environment, variants, ledger)


def check_floors(
    environment: Environment, requirements: Sequence[Requirement], file: str, variant: Variant | None = None
) -> list[Mismatch]:
    """Every requirement is asked for, at its floor or above."""
    findings = []
    for requirement in requirements:
        spec = _find(environment, requirement, variant)
        if spec is None:
            about = f" for {variant.id}" if variant else ""
            message = f"requirement {requirement.name} ({requirement.role}) is missing{about}"
            findings.append(Mismatch(file, message, f"add it to {file}"))
            continue
        lower = [Specifier(clause) for clause in spec.clauses if clause.startswith((">=", "=="))]
        if requirement.floor and not any(Version(c.version) >= Version(requirement.floor) for c in lower):
            where = f"{file}:{spec.line}" if spec.line else file
            message = f"'{spec}' goes below the floor of {requirement.name}, {requirement.floor}"
            findings.append(Mismatch(where, message, f"write >={requirement.floor} there"))
    return findings


def _find(environment: Environment, requirement: Requirement, variant: Variant | None) -> CondaSpec | PipSpec | None:
    conda = environment.conda_spec(requirement.conda or load_names().to_conda(requirement.name))
    if conda:
        return conda
    names = [requirement.name]
    change = variant.pip.get(requirement.name, {}) if variant else {}
    if "spec" in change:  # another distribution of the same module, e.g. decord2
        names.append(change["spec"].split()[0])
    return next((spec for name in names if (spec := environment.pip_spec(name))), None)


def check_ledger(environment: Environment, requirements: Sequence[Requirement], ledger: Ledger) -> list[Mismatch]:
    """Every bound beyond the floors has an entry, every entry a bound."""
    floors = {canonicalize_name(r.conda or r.name): r.floor for r in requirements}
    justified = {(canonicalize_name(e.package), e.bound) for e in ledger.entries}
    findings = []
    present: set[tuple[str, str]] = set()
    for spec in (*environment.conda, *environment.pip):
        key = canonicalize_name(spec.name)
        for clause in spec.clauses:
            present.add((key, clause))
            if clause != f">={floors.get(key)}" and (key, clause) not in justified:
                message = f"bound '{clause}' of {spec.name} has no entry in the breakage ledger"
                remedy = f"add an entry with evidence and proof to {LEDGER}, or drop the bound"
                findings.append(Mismatch(f"environment.yml:{spec.line}", message, remedy))
    for entry in ledger.entries:
        if (canonicalize_name(entry.package), entry.bound) not in present:
            message = f"environment.yml has no bound '{entry.bound}' on {entry.package}"
            findings.append(of_entry(entry, message, "add the bound to environment.yml, or remove the entry"))
        if entry.pypi_bound not in (None, entry.bound):
            message = f"bound '{entry.bound}' and pypi bound '{entry.pypi_bound}' differ"
            findings.append(of_entry(entry, message, "make them equal"))
    justified_variables = {entry.package for entry in ledger.variables}
    for name in environment.variables:
        if name not in justified_variables:
            message = f"variable {name} has no entry in the breakage ledger"
            findings.append(Mismatch("environment.yml", message, f"add one to {LEDGER}"))
    for entry in ledger.variables:
        if environment.variables.get(entry.package) != entry.bound:
            message = f'environment.yml must set {entry.package} to "{entry.bound}"'
            findings.append(of_entry(entry, message, "set it under 'variables', or remove the entry"))
    return findings


def check_proofs(root: Path, ledger: Ledger) -> list[Mismatch]:
    """Every proof that an entry names exists: test functions by node id, doctor checks by id."""
    from cogvideo_sat_env.doctor import list_checks

    checks = {check["id"] for check in list_checks()}
    functions = {
        file: _functions(root, file)
        for file in {test.partition("::")[0] for entry in ledger.all for test in entry.proof.tests}
    }
    findings = []
    for entry in ledger.all:
        missing = []
        for test in entry.proof.tests:
            file, _, function = test.partition("::")
            names = functions[file]
            if names is not None and function not in names:
                missing.append(test)
        missing += [check for check in entry.proof.checks if check not in checks]
        findings += [of_entry(entry, f"its proof '{proof}' does not exist", "write it") for proof in missing]
    return findings


def _functions(root: Path, file: str) -> set[str] | None:
    """Return the names of the functions in a file of tests; None in an installed copy, which has no tests."""
    path = root / file
    if not path.is_file():
        return set() if (root / "tests").is_dir() else None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {item.name for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}


def _check_locks(
    root: Path, environment: Environment, variants: Sequence[Variant], ledger: Ledger
) -> tuple[list[Mismatch], list[Lock]]:
    """Return the disagreements, and the locks that could be read."""
    findings: list[Mismatch] = []
    sizes = render.read_sizes(root)
    broken: set[str] = set()
    read: list[tuple[Variant, Lock]] = []
    documents: dict[str, Document] = {}  # read once, for all platforms: YAML is most of this command's time
    for name in dict.fromkeys(variant.lock for variant in variants):
        try:
            documents[name] = load_lock(root / name)
            entries = verify_entries(documents[name], name, environment.channels)
        except InputError as error:
            entries = [Mismatch(name, error.message, RELOCK)]
        findings += entries
        broken |= {name} if entries else set()
    for variant in variants:
        if variant.lock in broken:
            continue  # what is built on it can't be judged before it is corrected
        derived = derive(environment, variant, root / variant.environment)
        remedy = f"{RELOCK} --only {variant.id}"
        try:
            lock = read_lock(root / variant.lock, variant.platform, sizes, documents[variant.lock])
        except InputError as error:
            findings.append(Mismatch(variant.lock, error.message, remedy))
            continue
        if lock.content_hash != conda_lock.content_hash(derived, variant):
            message = f"{variant.platform}: was made from another {variant.environment} or other virtual packages"
            findings.append(Mismatch(variant.lock, message, remedy))
        read.append((variant, lock))
        findings += verify_solution(derived, variant, lock)
        unknown = [item.name for item in lock.files if item.size is None]
        texts = render.lock_files(variant, lock)
        if unknown:
            del texts[variant.package_list]  # it has the sizes, whose lack is a finding below
        findings += _compare(root, texts)
        if unknown:
            message = f"no size for {', '.join(unknown[:5])} ({len(unknown)} in all)"
            findings.append(Mismatch(render.SIZES, message, remedy))
    if broken:
        return findings, [lock for _, lock in read]
    pins = [pin for _, lock in read for pin in lock.pip]
    unused = set(sizes) - {item.sha256 for _, lock in read for item in lock.files}
    try:
        findings += _compare(root, recipe_files(root, environment, variants, ledger, pins))
        findings += _compare(root, render.pieces_page(root, environment, read))
    except InputError as error:
        findings.append(Mismatch(RECIPE, error.message, error.remedy or RENDER))
    if not environment.placements:
        findings.append(Mismatch(placement.FILE, "is missing", RELOCK))
    if unused:
        findings.append(Mismatch(render.SIZES, f"{len(unused)} sizes of artefacts in no lock", RENDER))
    return findings, [lock for _, lock in read]


def _check_wheel_locks(root: Path, environment: Environment) -> list[Mismatch]:
    wanted, _ = divide(environment, load_names())
    paths = sorted((root / "locks").glob("wheels-*-py*.txt"))
    findings = [] if paths else [Mismatch("locks", "no wheel lock (wheels-PLATFORM-pyXY.txt) there", RELOCK_WHEELS)]
    for path in paths:
        name = f"locks/{path.name}"
        try:
            lock = read_wheel_lock(path)
        except InputError as error:
            findings.append(Mismatch(name, error.message, RELOCK_WHEELS))
            continue
        if lock.spec_hash != spec_hash(environment):
            findings.append(Mismatch(name, "was made from another environment.yml", RELOCK_WHEELS))
        if path.name != lock_name(lock.platform, lock.python):
            findings.append(Mismatch(name, f"is for {lock.platform}, Python {lock.python}", RELOCK_WHEELS))
        versions = {pin.name: pin.version for pin in lock.pins}
        for item in wanted:
            version = versions.get(item.pypi)
            if version is None or version not in SpecifierSet(item.specifier, prereleases=True):
                message = f"the spec asks for '{item.pypi} {item.specifier}', the lock has {version or 'nothing'}"
                findings.append(Mismatch(name, message, RELOCK_WHEELS))
    return findings


def _check_metadata(root: Path, environment: Environment, locks: Sequence[Lock]) -> list[Mismatch]:
    """Check that `lock --frozen` can make the locks from what was frozen; nothing where the project carries none."""
    path = f"{METADATA}/{MANIFEST}"
    if not (root / path).is_file():
        return []
    try:
        manifest = read_manifest(root / METADATA)
        known = frozen_hashes(root / METADATA)
    except InputError as error:
        return [Mismatch(path, error.message, error.remedy or FREEZE)]
    except VerificationError as error:
        return [Mismatch(METADATA, error.message, FREEZE)]
    missing = sorted(set(asked_names(root, environment)[0]) - set(manifest.get("names") or []))
    findings = [Mismatch(path, f"was frozen without {', '.join(missing)}", FREEZE)] if missing else []
    lost = {item.file_name for lock in locks for item in lock.files if item.sha256 not in known}
    if lost:
        named = f"{', '.join(sorted(lost)[:5])} ({len(lost)} in all)"
        findings.append(Mismatch(METADATA, f"lacks what the locks hold: {named}", FREEZE))
    return findings


def _compare(root: Path, texts: Mapping[str, str]) -> list[Mismatch]:
    """Return which of the generated files, texts by path, aren't as they should be."""
    findings = []
    for path, text in texts.items():
        try:
            found = (root / path).read_text(encoding="utf-8")
        except FileNotFoundError:
            findings.append(Mismatch(path, "is missing", RENDER))
            continue
        except (OSError, UnicodeDecodeError) as error:
            findings.append(Mismatch(path, f"can't be read: {error}", RENDER))
            continue
        if found != text:
            pairs = enumerate(zip(found.splitlines(), text.splitlines(), strict=False), start=1)
            line = next((number for number, (left, right) in pairs if left != right), min(len(found.splitlines()), 1))
            findings.append(Mismatch(f"{path}:{line}", "differs from what it is generated from", RENDER))
    return findings

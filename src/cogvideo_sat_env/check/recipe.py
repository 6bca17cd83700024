"""`satenv check`, the recipe: the metapackage asks for what the environment asks for, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.check.rendered_recipe import RECIPE, VARIANTS, Output, Recipe, read_recipe
from cogvideo_sat_env.lock.verify import Finding
from cogvideo_sat_env.spec.breakage import Ledger
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import Names, load_names
from cogvideo_sat_env.spec.variants import Variant, derive

METAPACKAGE = "cogvideo-sat-env"
LEDGER = "src/cogvideo_sat_env/data/breakage.yml"
_PIN = re.compile(r"^(?P<name>[^=\s]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$", re.MULTILINE)


def check_recipe(root: Path, environment: Environment, variants: Sequence[Variant], ledger: Ledger) -> list[Finding]:
    """Return every disagreement of recipe/ with environment.yml, the ledger, the pip locks and this program."""
    try:
        recipe = read_recipe(root, list(dict.fromkeys(variant.platform for variant in variants)))
    except InputError as error:
        return [Finding(RECIPE, error.message, error.remedy or f"mend {RECIPE}")]
    findings = _check_version(recipe)
    metapackages = {(o.platform, o.device): o for o in recipe.outputs if o.name == METAPACKAGE}
    for variant in variants:
        output = metapackages.pop((variant.platform, variant.device), None)
        if output is None:
            message = f"builds no {METAPACKAGE} for {variant.platform} with device {variant.device}"
            findings.append(Finding(RECIPE, message, f"mend 'skip' there, or {VARIANTS}"))
            continue
        derived = derive(environment, variant, root / variant.environment)
        findings += _check_run(variant, output, derived)
        findings += _check_constraints(variant, output, ledger)
        findings += _check_provided(variant, derived, environment, recipe)
    findings += [
        Finding(RECIPE, f"builds {METAPACKAGE} for {platform} with device {device}, which is no variant", "skip it")
        for platform, device in metapackages
    ]
    return findings + _check_pieces(root, recipe, variants) + _check_patches(root, ledger)


def wanted_specs(environment: Environment, variant: Variant) -> dict[str, str]:
    """Return what the metapackage has to ask for, by conda name: the environment's specs, its pip part included."""
    names = load_names()
    wanted = {spec.name: str(spec) for spec in environment.conda}
    for spec in environment.pip:
        name = names.to_conda(spec.name)
        wanted[name] = f"{name} {spec.specifier}".strip()  # as written: the ledger quotes the same clause
    if variant.device == "cuda":
        wanted["__cuda"] = _cuda(variant)
    return wanted


def _cuda(variant: Variant) -> str:
    """The driver that a CUDA build needs: minor versions of one major are compatible."""
    return f"__cuda >={variant.virtual_packages.get('__cuda', '12').partition('.')[0]}"


def _by_name(specs: Sequence[str]) -> dict[str, str]:
    return {spec.split()[0]: spec for spec in specs}


def _check_run(variant: Variant, output: Output, derived: Environment) -> list[Finding]:
    found, wanted = _by_name(output.run), wanted_specs(derived, variant)
    about = f"{METAPACKAGE} {output.build} for {variant.platform}"
    findings = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        if found.get(name) == wanted.get(name):
            continue
        if name not in found:
            message = f"{about} doesn't require '{wanted[name]}', which {variant.environment} asks for"
            mend = f"write '{wanted[name]}' under 'run' there"
        elif name not in wanted:
            message = f"{about} requires '{found[name]}', which {variant.environment} doesn't ask for"
            mend = "add it to environment.yml with its reason and relock, or remove it there"
        else:
            message = f"{about} requires '{found[name]}', {variant.environment} asks for '{wanted[name]}'"
            mend = f"write '{wanted[name]}' under 'run' there"
        findings.append(Finding(RECIPE, message, mend))
    return findings


def _check_constraints(variant: Variant, output: Output, ledger: Ledger) -> list[Finding]:
    required, found = _by_name(output.run), _by_name(output.constraints)
    bounds: dict[str, list[str]] = {}
    for entry in ledger.entries:
        if entry.package not in required:
            bounds.setdefault(_conda_name(entry.package), []).append(entry.bound)
    wanted = {name: f"{name} {','.join(clauses)}" for name, clauses in bounds.items() if name not in required}
    if variant.device == "cpu" and variant.platform.startswith("linux"):
        # without a driver it is void; with one that is too old it says why the CUDA build isn't taken
        wanted["__cuda"] = "__cuda >=12"
    about = f"{METAPACKAGE} {output.build} for {variant.platform}"
    findings = [
        Finding(RECIPE, f"{about}: the ledger's bound '{wanted[name]}' is no run_constraint there", "write it there")
        for name in wanted
        if found.get(name) != wanted[name]
    ]
    return findings + [
        Finding(
            RECIPE, f"{about}: run_constraint '{found[name]}' has no entry in the breakage ledger",
            f"add an entry with evidence and proof to {LEDGER}, or drop it",
        )
        for name in found
        if name not in wanted
    ]  # fmt: skip


def _conda_name(package: str) -> str:
    return load_names().to_conda(package) if package != package.lower() else package


def _check_provided(variant: Variant, derived: Environment, environment: Environment, recipe: Recipe) -> list[Finding]:
    """What comes from pip elsewhere is built here for the platform, or is a conda package on another one."""
    names: Names = load_names()
    built = {output.name for output in recipe.outputs if output.platform == variant.platform}
    conda = {spec.name for spec in environment.conda}
    return [
        Finding(
            RECIPE,
            f"{variant.platform}: '{spec}' is in the pip part of {variant.environment}; no output builds "
            f"{names.to_conda(spec.name)} for that platform",
            "add an output",
        )
        for spec in derived.pip
        if names.to_conda(spec.name) not in built | conda
    ]


def _check_version(recipe: Recipe) -> list[Finding]:
    where = f"{RECIPE}:{recipe.lines.get('version', 1)}"
    found = {output.version for output in recipe.outputs if output.name == METAPACKAGE}
    if found <= {__version__}:
        return []
    message = f"{METAPACKAGE} has version {', '.join(sorted(found))}; the program has {__version__}"
    return [Finding(where, message, f'write version: "{__version__}" there')]


def _check_pieces(root: Path, recipe: Recipe, variants: Sequence[Variant]) -> list[Finding]:
    """Version and hash of every file of PyPI are those of the pip locks, which were checked in their turn."""
    pins = _pins(root, variants)
    findings = []
    pieces = {key.removesuffix("_version") for key in recipe.context if key.endswith("_version")}
    pieces |= {key.removesuffix("_sha256") for key in recipe.context if key.endswith("_sha256")}
    for piece in sorted(pieces):
        name = canonicalize_name(piece)
        for key, what in (("version", "version"), ("sha256", "SHA-256")):
            variable = f"{piece}_{key}"
            value = recipe.context.get(variable)
            allowed = [pin[key] for pin in pins.get(name, [])]
            if value in allowed:
                continue
            if not allowed:
                found = f"{variable} is of {name}, which stands in no pip lock"
            else:
                found = f"{what} of {name} is {value}, the pip locks have {' or '.join(dict.fromkeys(allowed))}"
            where = f"{RECIPE}:{recipe.lines.get(variable, 1)}"
            findings.append(Finding(where, found, f"write {variable} as in locks/pip-*.txt and build again"))
    return findings


def _pins(root: Path, variants: Sequence[Variant]) -> Mapping[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for variant in variants:
        path = root / variant.pip_lock
        if path.is_file():  # what is missing is told by the check of the rendered files
            for match in _PIN.finditer(path.read_text(encoding="utf-8")):
                found.setdefault(canonicalize_name(match["name"]), []).append(match.groupdict())
    return found


def _check_patches(root: Path, ledger: Ledger) -> list[Finding]:
    """Every patch has an entry, every entry a patch."""
    folder = root / "recipe" / "patches"
    there = {(path.parent.name, path.name) for path in folder.glob("*/*.patch")}
    justified = {(canonicalize_name(entry.package), entry.bound) for entry in ledger.patches}
    findings = [
        Finding(
            f"recipe/patches/{package}/{name}", "has no entry in the breakage ledger",
            f"add one with evidence and proof under 'patches' in {LEDGER}, or remove the patch",
        )
        for package, name in sorted(there - justified)
    ]  # fmt: skip
    return findings + [
        Finding(
            f"{LEDGER}:{entry.line}",
            f"entry '{entry.id}': there is no recipe/patches/{canonicalize_name(entry.package)}/{entry.bound}",
            "write the patch, or remove the entry",
        )
        for entry in ledger.patches
        if (canonicalize_name(entry.package), entry.bound) not in there
    ]

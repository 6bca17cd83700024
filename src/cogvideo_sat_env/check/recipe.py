"""`satenv check`, the recipe: it builds what every variant needs, and every patch has its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import SatenvError
from cogvideo_sat_env.lock.render_recipe import RECIPE
from cogvideo_sat_env.lock.verify_lock import Mismatch
from cogvideo_sat_env.package.build.outputs import METAPACKAGE, Output, render
from cogvideo_sat_env.spec.breakage import Ledger, LedgerEntry
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.variants import Variant, derive

LEDGER = "src/cogvideo_sat_env/data/breakage.yml"


def check_recipe(root: Path, environment: Environment, variants: Sequence[Variant], ledger: Ledger) -> list[Mismatch]:
    """Return what recipe/ doesn't build, or builds for no variant, and patches without an entry in the ledger."""
    try:
        outputs = {platform: render(root / "recipe", platform) for platform in {v.platform for v in variants}}
    except SatenvError as error:  # a crash of the engine as well
        return [Mismatch(RECIPE, error.message, error.remedy or f"correct {RECIPE}")]
    return _check_outputs(root, environment, variants, outputs) + _check_patches(root, ledger)


def _check_outputs(
    root: Path, environment: Environment, variants: Sequence[Variant], outputs: Mapping[str, Sequence[Output]]
) -> list[Mismatch]:
    """What comes from pip elsewhere is built for the platform, or is a conda package on another one."""
    findings = []
    names = load_names()
    conda = {spec.name for spec in environment.conda}
    for platform, built in outputs.items():
        here = {variant.device: variant for variant in variants if variant.platform == platform}
        devices = [output.device for output in built if output.name == METAPACKAGE]
        for device in here.keys() - set(devices):
            message = f"builds no {METAPACKAGE} for {platform} with device {device}"
            findings.append(Mismatch(RECIPE, message, "correct 'skip' there"))
        for device in devices:
            if device not in here:
                message = f"builds {METAPACKAGE} for {platform} with device {device}, which is no variant"
                findings.append(Mismatch(RECIPE, message, "skip it"))
        provided = conda | {output.name for output in built}
        for variant in here.values():
            for spec in derive(environment, variant, root / variant.environment).pip:
                name = names.to_conda(spec.name)
                if name not in provided:
                    part = f"{platform}: '{spec}' is in the pip part of {variant.environment}"
                    findings.append(
                        Mismatch(RECIPE, f"{part}; no output builds {name} for that platform", "add an output")
                    )
    return findings


def _check_patches(root: Path, ledger: Ledger) -> list[Mismatch]:
    """Every patch has an entry, every entry a patch."""
    there = {f"{path.parent.name}/{path.name}" for path in (root / "recipe" / "patches").glob("*/*.patch")}
    entries = {f"{canonicalize_name(entry.package)}/{entry.bound}": entry for entry in ledger.patches}
    remedy = f"add one with evidence and proof under 'patches' in {LEDGER}, or remove the patch"
    findings = [
        Mismatch(f"recipe/patches/{patch}", "has no entry in the breakage ledger", remedy)
        for patch in sorted(there - entries.keys())
    ]
    return findings + [
        of_entry(entry, f"there is no recipe/patches/{patch}", "write the patch, or remove the entry")
        for patch, entry in entries.items()
        if patch not in there
    ]


def of_entry(entry: LedgerEntry, message: str, remedy: str) -> Mismatch:
    """Return what is wrong with an entry of the breakage ledger."""
    return Mismatch(f"{LEDGER}:{entry.line}", f"entry '{entry.id}': {message}", remedy)

"""Every bound on a conda package is needed: without it the solver leaves what was proven to train."""

from __future__ import annotations

from pathlib import Path

import pytest
from rattler import MatchSpec

from cogvideo_sat_env.base.errors import SolveError
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.lock.verify_lock import record_of
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import CondaSpec, read_environment
from cogvideo_sat_env.spec.variants import read_variants

ENVIRONMENT = read_environment(Path(__file__).parents[2] / "environment.yml")
VARIANT = next(variant for variant in read_variants() if variant.is_primary)
PROOF = "tests/lock/test_bounds.py::test_without_the_bound_the_solver_leaves_it"
ENTRIES = [entry for entry in read_ledger().entries if PROOF in entry.proof.tests]

# Left out, so that each bound is judged alone: these hold the package back as well, in the frozen metadata.
PARTNERS = {
    "torch-2.11": ["torchvision"],
    "cuda-12.9": ["pytorch", "torchvision", "triton", "kornia", "pytorch-lightning"],
    "python-3.11": ["sentencepiece"],
    "datasets-fallback": ["huggingface_hub"],
}
# The machine that the bound protects.
MACHINES = {
    "cuda-12.9": {"__cuda": "13.3"},
    "torch-cuda-build": {"__cuda": None},
    "sysroot-2.28": {"__glibc": "2.39"},  # newer than the nodes that extensions are compiled for
}


def _without(package: str, bound: str, also: list[str]) -> list[str]:
    specs = []
    for spec in ENVIRONMENT.conda:
        if spec.name == package and bound == spec.build:
            spec = CondaSpec(spec.name, spec.version)
        elif spec.name == package:
            kept = ",".join(clause for clause in spec.version.split(",") if clause != bound)
            spec = CondaSpec(spec.name, kept, spec.build)
        if spec.name not in also:
            specs.append(str(spec))
    return specs


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_without_the_bound_the_solver_leaves_it(entry, frozen_urls):
    virtual = VARIANT.virtual_packages | MACHINES.get(entry.id, {})
    virtual = {name: version for name, version in virtual.items() if version is not None}
    specs = _without(entry.package, entry.bound, PARTNERS.get(entry.id, []))
    spec = f"{entry.package} * {entry.bound}" if entry.bound[0].isalpha() else f"{entry.package} {entry.bound}"
    try:
        records = solve(frozen_urls, specs, VARIANT.platform, virtual)
    except SolveError as error:
        pytest.fail(f"nothing is left to choose from without the bound: {error}")
    record = next(record for record in records if record["name"] == entry.package)
    chosen = record_of(record["name"], record["version"], record["build"], record["subdir"])
    assert not MatchSpec(spec).matches(chosen), f"{entry.package} {record['version']} {record['build']}"


def test_with_all_bounds_the_solver_keeps_them(frozen_urls):
    records = solve(frozen_urls, [str(spec) for spec in ENVIRONMENT.conda], VARIANT.platform, VARIANT.virtual_packages)
    by_name = {record["name"]: record for record in records}
    assert by_name["pytorch"]["build"].startswith("cuda129")
    for spec in ENVIRONMENT.conda:
        record = by_name[spec.name]
        chosen = record_of(record["name"], record["version"], record["build"], record["subdir"])
        assert MatchSpec(str(spec)).matches(chosen), spec

"""What is generated from environment.yml and the locks, as texts by path: `lock` writes them, `check` compares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.lock.conda_lock import render_virtual_packages
from cogvideo_sat_env.lock.read import Lock
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.variants import Variant, derive, render_environment

SIZES = "locks/sizes.json"


def environment_files(environment: Environment, variants: Sequence[Variant]) -> dict[str, str]:
    """Return what environment.yml and variants.yml alone determine."""
    texts = {}
    for variant in variants:
        if not variant.is_primary:
            texts[variant.environment] = render_environment(
                derive(environment, variant, Path(variant.environment)), variant
            )
        texts[variant.virtual_packages_file] = render_virtual_packages(variant)
    return texts


def lock_files(variant: Variant, lock: Lock) -> dict[str, str]:
    """Return the files rendered from one variant's lock, whose sizes are in it."""
    return {
        variant.explicit_lock: _explicit(variant, lock),
        variant.pip_lock: _pip(variant, lock),
        variant.package_list: _package_list(variant, lock),
    }


def sizes_file(sizes: Mapping[str, int], used: set[str]) -> str:
    """Return the text of locks/sizes.json: bytes by SHA-256, of the artefacts in `used` only."""
    return json.dumps({sha256: sizes[sha256] for sha256 in sorted(used) if sha256 in sizes}, indent=0) + "\n"


def read_sizes(root: Path) -> dict[str, int]:
    """Return bytes by SHA-256; none where the file is missing or broken (sizes only add to the SHA-256 check)."""
    try:
        data = json.loads((root / SIZES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): int(value) for key, value in data.items()} if isinstance(data, dict) else {}


def write_files(root: Path, texts: Mapping[str, str]) -> list[str]:
    """Write each text whole or not at all; return the paths whose content changed."""
    return [relative for relative, text in texts.items() if write_atomically(root / relative, text.encode("utf-8"))]


def explicit(head: Sequence[str], lock: Lock) -> str:
    """Return the text of an explicit lockfile: the lines of `head`, then each package's URL and SHA-256."""
    lines = [*head, f"# platform: {lock.platform}", f"# input_hash: {lock.content_hash}", "@EXPLICIT"]
    return "\n".join(lines + [f"{a.url}#sha256:{a.sha256}" for a in _ordered(lock.conda)]) + "\n"


def _explicit(variant: Variant, lock: Lock) -> str:
    head = [
        f"# Explicit lockfile of {variant.id}, generated from {variant.lock} by `scripts/satenv lock`; don't edit.",
        f"#   mamba create -n cogvideo-sat --file {variant.explicit_lock}",
        "#   mamba run -n cogvideo-sat \\",
        f"#       pip install --no-deps --no-build-isolation --require-hashes -r {variant.pip_lock}",
    ]
    return explicit(head, lock)


def _ordered(artefacts: Sequence[CondaArtefact]) -> list[CondaArtefact]:
    """Sort so that what is needed comes first; conda installs explicit files in their order."""
    by_name = {artefact.name: artefact for artefact in artefacts}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name in sorted(by_name):
        needed = {dep.split()[0] for dep in by_name[name].depends} & set(by_name)
        needed -= {"pip"} if name == "python" else set()  # conda-forge's python and pip name each other
        sorter.add(name, *sorted(needed - {name}))
    sorter.prepare()
    ordered: list[CondaArtefact] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        ordered += [by_name[name] for name in ready]
        sorter.done(*ready)
    return ordered


def _package_list(variant: Variant, lock: Lock) -> str:
    """Return a line a package. Nothing is aligned: a line changes when its package does, and with nothing else."""
    rows = [(a.name, a.version, a.build, a.channel_path.rpartition("/")[0], a.size) for a in lock.conda]
    rows += [(p.name, p.version, "-", "pip", p.size) for p in lock.pip]
    known = sum(row[4] or 0 for row in rows)
    unknown = sum(row[4] is None for row in rows)
    size = f"{human_bytes(known)} to download" + (f", {unknown} of unknown size" if unknown else "")
    lines = [
        f"# The packages of {variant.id}, generated from {variant.lock} by `scripts/satenv lock`; don't edit.",
        f"# {len(lock.conda)} from conda, {len(lock.pip)} from pip; {size}.",
        "# name version build source size",
    ]
    for name, version, build, source, size_of in sorted(rows, key=lambda row: (canonicalize_name(row[0]), row[3])):
        lines.append(f"{name} {version} {build} {source} {human_bytes(size_of) if size_of else 'unknown'}")
    return "\n".join(lines) + "\n"


def _pip(variant: Variant, lock: Lock) -> str:
    lines = [
        f"# The pip part of {variant.id}, generated from {variant.lock} by `scripts/satenv lock`; don't edit.",
        f"#   pip install --no-deps --no-build-isolation --require-hashes -r {variant.pip_lock}",
    ]
    pins = sorted(lock.pip, key=lambda pin: canonicalize_name(pin.name))
    return "\n".join(lines + [pin.requirement() for pin in pins]) + "\n"

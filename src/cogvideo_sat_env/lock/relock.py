"""`satenv lock`: every lock and every rendered file, written together or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.lock import conda_lock, render
from cogvideo_sat_env.lock.make import Solver, lock_variant
from cogvideo_sat_env.lock.read import load_lock, read_lock
from cogvideo_sat_env.lock.render_recipe import recipe_files
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.variants import Variant, derive, read_variants


def lock_project(
    root: Path,
    *,
    wanted: Sequence[str] = (),
    solver: Solver,
    update: Sequence[str] = (),
    progress: Progress,
) -> list[str]:
    """Lock the variants `wanted` (ids; none: all) of the project at `root`; return the files that changed.

    The others keep their present locks. Raises InputError, SolveError, SourceError, MissingToolError; then no file
    has changed.
    """
    environment = read_environment(root / "environment.yml")
    variants = read_variants()
    for name in wanted:
        if name not in {variant.id for variant in variants}:
            raise InputError(f"no variant {name!r}", f"there is: {', '.join(variant.id for variant in variants)}")
    texts = render.environment_files(environment, variants)
    sizes = render.read_sizes(root)
    contents: dict[str, list[dict]] = {}
    locks = {variant.id: _previous(root, variant) for variant in variants}
    _require_known(update, [locks[v.id] for v in variants if not wanted or v.id in wanted])
    for variant in variants:
        previous = locks[variant.id]
        if (wanted and variant.id not in wanted) or (update and not _names(previous) & set(update)):
            if previous is not None:
                contents.setdefault(variant.lock, []).append(previous)
            continue
        own = derive(environment, variant, root / variant.environment)
        locked = lock_variant(own, variant, solver, update=update, previous=previous, progress=progress)
        sizes |= locked.sizes
        contents.setdefault(variant.lock, []).append(locked.content)
    texts |= {path: conda_lock.dump(conda_lock.merge(parts), path) for path, parts in contents.items()}
    with scratch_folder("satenv-render-") as folder:  # read back, exactly as `check` will
        present = [variant for variant in variants if variant.lock in texts]
        for variant in present:
            write_atomically(Path(folder) / variant.lock, texts[variant.lock].encode("utf-8"), durable=False)
        rendered, pins = _rendered(Path(folder), present, sizes)
    texts |= rendered
    if all(variant.lock in texts for variant in variants):  # else a piece of the recipe may have no lock yet
        texts |= recipe_files(root, environment, variants, read_ledger(), pins)
    return render.write_files(root, texts)


def render_project(root: Path) -> list[str]:
    """Write what is generated anew from environment.yml and the present locks; return the files that changed.

    Raises InputError when one of them can't be read.
    """
    environment, variants = read_environment(root / "environment.yml"), read_variants()
    texts, pins = _rendered(root, variants, render.read_sizes(root))
    texts |= render.environment_files(environment, variants)
    texts |= recipe_files(root, environment, variants, read_ledger(), pins)
    return render.write_files(root, texts)


def _rendered(root: Path, variants: Sequence[Variant], sizes: dict[str, int]) -> tuple[dict[str, str], list[PipPin]]:
    """Return what is rendered from the locks below `root`, by path, and the pip pins in them."""
    rendered: dict[str, str] = {}
    pins: list[PipPin] = []
    used: set[str] = set()
    for variant in variants:
        lock = read_lock(root / variant.lock, variant.platform, sizes)
        used |= {artefact.sha256 for artefact in lock.conda} | {pin.sha256 for pin in lock.pip}
        rendered |= render.lock_files(variant, lock)
        pins += lock.pip
    rendered[render.SIZES] = render.sizes_file(sizes, used)
    return rendered, pins


def _names(content: dict | None) -> set[str]:
    return {entry["name"] for entry in content["package"]} if content else set()


def _require_known(update: Sequence[str], contents: Sequence[dict | None]) -> None:
    """Raise InputError for a name that none of the locks holds: conda-lock would pass over it in silence."""
    known = set().union(*(_names(content) for content in contents))
    unknown = sorted(set(update) - known)
    if unknown:
        raise InputError(
            f"--update {', '.join(unknown)}: not in the lock",
            "write the name as in conda-lock.yml; a new package is named in environment.yml and locked without it",
        )


def _previous(root: Path, variant: Variant) -> dict | None:
    path = root / variant.lock
    if not path.is_file():
        return None
    try:
        return conda_lock.only(load_lock(path)[0], variant.platform)
    except (InputError, KeyError, TypeError, ValueError):
        return None  # a lock that can't be read can't be kept; it is made anew


def find_conda(named: str | None) -> Path | None:
    """Return the path of the user's conda, mamba or micromamba; None when none was named.

    Raises MissingToolError when it isn't there.
    """
    if named is None:
        return None
    found = shutil.which(named)
    if found is None:
        raise MissingToolError(
            f"{named}: no such program", "give its path, or leave --conda out: rattler solves as well"
        )
    return Path(found).absolute()

"""`satenv lock`: every lock and every rendered file, written together or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.lock import conda_lock, render
from cogvideo_sat_env.lock.edit_environment import moved
from cogvideo_sat_env.lock.make import Solver, lock_variant
from cogvideo_sat_env.lock.place_pieces import place
from cogvideo_sat_env.lock.read import Lock, load_lock, read_locks
from cogvideo_sat_env.lock.render_recipe import recipe_files
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.pieces import pieces_of
from cogvideo_sat_env.spec.placement import FILE, Placements, placements_file
from cogvideo_sat_env.spec.variants import Variant, derive, read_variants


@dataclass(frozen=True)
class Relocked:
    """The files that changed, whence each piece comes by variant, and the names of unknown age."""

    changed: list[str]
    placements: Placements
    undated: tuple[str, ...] = ()

    def pieces_text(self) -> str:
        """Return a line for each piece and answer, with the variants that it holds for."""
        lines: dict[str, list[str]] = {}
        for variant, pieces in self.placements.items():
            for name, placement in pieces.items():
                words = f"{name}: from {placement.origin}" + (f": {placement.why}" if placement.why else "")
                lines.setdefault(words, []).append(variant)
        return "".join(f"{words} ({', '.join(variants)})\n" for words, variants in sorted(lines.items()))


def lock_project(
    root: Path,
    *,
    wanted: Sequence[str] = (),
    solver: Solver,
    update: Sequence[str] = (),
    pieces: str = "auto",
    progress: Progress,
) -> Relocked:
    """Lock the variants `wanted` (ids; none: all) of the project at `root`.

    The others keep their present locks. `pieces` says how pieces are placed; with `update` they stay.
    Raises InputError, SolveError, SourceError, MissingToolError; then no file has changed.
    """
    environment = read_environment(root / "environment.yml")
    variants = read_variants()
    for name in wanted:
        if name not in {variant.id for variant in variants}:
            raise InputError(f"no variant {name!r}", f"there is: {', '.join(variant.id for variant in variants)}")
    chosen = [variant for variant in variants if not wanted or variant.id in wanted]
    texts: dict[str, str] = {}
    if not update:
        environment, texts = _place_pieces(root, environment, chosen, solver, pieces, progress)
    texts |= render.environment_files(environment, variants)
    sizes = render.read_sizes(root)
    undated: set[str] = set()
    contents: dict[str, list[dict]] = {}
    locks = {variant.id: _previous(root, variant) for variant in variants}
    _require_known(update, [locks[variant.id] for variant in chosen])
    for variant in variants:
        previous = locks[variant.id]
        if variant not in chosen or (update and not _names(previous) & set(update)):
            if previous is not None:
                contents.setdefault(variant.lock, []).append(previous)
            continue
        own = derive(environment, variant, root / variant.environment)
        locked = lock_variant(own, variant, solver, update=update, previous=previous, progress=progress)
        sizes |= locked.sizes
        undated |= set(locked.undated)
        contents.setdefault(variant.lock, []).append(locked.content)
    texts |= {path: conda_lock.dump(conda_lock.merge(parts), path) for path, parts in contents.items()}
    with scratch_folder("satenv-render-") as folder:  # read back, exactly as `check` will
        present = [variant for variant in variants if variant.lock in texts]
        for variant in present:
            write_atomically(folder / variant.lock, texts[variant.lock].encode("utf-8"), durable=False)
        made = read_locks(folder, present, sizes)
    texts |= _rendered(root, environment, variants, made, sizes)
    return Relocked(render.write_files(root, texts), environment.placements, tuple(sorted(undated)))


def _place_pieces(
    root: Path, environment: Environment, variants: Sequence[Variant], solver: Solver, mode: str, progress: Progress
) -> tuple[Environment, dict[str, str]]:
    """Return the environment with each piece where it comes from, and what is to be written for that."""
    progress.say("Asking the channels for the pieces of the pip part")
    placements = {variant.id: place(environment, variant, solver, mode) for variant in variants}
    order = [variant.id for variant in read_variants()]
    known = {**environment.placements, **placements}
    placements = {name: dict(known[name]) for name in order if name in known}
    path = root / "environment.yml"
    text = path.read_text(encoding="utf-8")
    for variant in variants:
        if variant.is_primary:
            text = moved(text, environment, pieces_of(environment, variant.pip), placements[variant.id])
    texts = {"environment.yml": text, FILE: placements_file(placements)}
    with scratch_folder("satenv-pieces-") as folder:
        for name, content in texts.items():
            write_atomically(folder / name, content.encode("utf-8"), durable=False)
        return replace(read_environment(folder / "environment.yml"), path=path), texts


def render_project(root: Path) -> list[str]:
    """Write what is generated anew from environment.yml and the present locks; return the files that changed.

    Raises InputError when one of them can't be read.
    """
    environment, variants = read_environment(root / "environment.yml"), read_variants()
    sizes = render.read_sizes(root)
    locks = read_locks(root, variants, sizes)
    return render.write_files(root, _rendered(root, environment, variants, locks, sizes))


def _rendered(
    root: Path,
    environment: Environment,
    variants: Sequence[Variant],
    locks: Sequence[tuple[Variant, Lock]],
    sizes: dict[str, int],
) -> dict[str, str]:
    """Return what is generated from environment.yml and the locks, by path."""
    texts: dict[str, str] = {}
    for variant, lock in locks:
        texts |= render.lock_files(variant, lock)
    texts[render.SIZES] = render.sizes_file(sizes, {item.sha256 for _, lock in locks for item in lock.files})
    texts |= render.pieces_page(root, environment, locks)
    texts |= render.environment_files(environment, variants)
    if len(locks) == len(variants):  # else a piece of the recipe may have no lock yet
        pins = [pin for _, lock in locks for pin in lock.pip]
        texts |= recipe_files(root, environment, variants, read_ledger(), pins)
    return texts


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

"""Platforms and variants (data/variants.yml), and the environment files generated for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as PipRequirement
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, PipSpec
from cogvideo_sat_env.spec.pieces import Piece, pieces_of
from cogvideo_sat_env.spec.placement import marked
from cogvideo_sat_env.spec.pypi_names import load_names

WHAT = "the list of variants"


@dataclass(frozen=True)
class Variant:
    """One platform and device that a lock exists for. Paths are relative to the project's root."""

    id: str
    platform: str
    device: str
    environment: str
    lock: str
    suffix: str
    virtual_packages: dict[str, str]
    data_only: str | None = None
    drop: dict[str, str] = field(default_factory=dict)  # conda name -> reason
    set: dict[str, dict[str, str]] = field(default_factory=dict)
    pip: dict[str, dict[str, str]] = field(default_factory=dict)
    drop_variables: tuple[str, ...] = ()

    @property
    def is_primary(self) -> bool:
        """Whether environment.yml itself, written by people, is this variant's environment file."""
        return self.environment == "environment.yml"

    @property
    def has_own_lock(self) -> bool:
        """Whether the lock is one that the user named, not the project's."""
        return Path(self.lock).is_absolute()

    def with_lock(self, root: Path, lock: Path) -> Variant:
        """Return this variant with the lock file `lock`; itself where that is its lock in the project at `root`."""
        path = Path(os.path.abspath(lock))
        return self if path == root / self.lock else replace(self, lock=str(path))

    @property
    def explicit_lock(self) -> str:
        """The explicit lockfile rendered for conda, mamba and micromamba."""
        return f"locks/conda-{self.suffix}.lock"

    @property
    def pip_lock(self) -> str:
        """The pip requirements file rendered for the part that comes from a package index."""
        return f"locks/pip-{self.suffix}.txt"

    @property
    def package_list(self) -> str:
        """The list of packages, one a line, rendered for people who read diffs."""
        return f"locks/packages-{self.suffix}.txt"

    @property
    def virtual_packages_file(self) -> str:
        """The virtual packages in conda-lock's format."""
        return f"locks/virtual-packages-{self.suffix}.yml"


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _changes(value: object, allowed: frozenset[str], *needed: frozenset[str]) -> bool:
    """Return whether it is a mapping of names to changes: texts under `allowed` keys, all of one of `needed`."""
    return isinstance(value, dict) and all(
        _text(name)
        and isinstance(change, dict)
        and all(map(_text, change.values()))
        and set(change) <= allowed
        and any(keys <= set(change) for keys in needed)
        for name, change in value.items()
    )


def _pip_changes(value: object) -> bool:
    drop, spec = frozenset({"drop"}), frozenset({"spec", "reason"})
    if not isinstance(value, dict) or not _changes(value, drop | spec, drop, spec):
        return False
    try:
        return all(PipRequirement(change["spec"]) for change in value.values() if "spec" in change)
    except InvalidRequirement:
        return False


_TEXTS = ("platform", "device", "environment", "lock", "suffix", "data_only")
_SHAPES: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(_TEXTS, _text),
    "virtual_packages": lambda value: isinstance(value, dict) and all(map(_text, [*value, *value.values()])),
    "drop": lambda value: (
        isinstance(value, list)
        and all(isinstance(g, dict) and _texts(g.get("names")) and _text(g.get("reason")) for g in value)
    ),
    "set": lambda value: _changes(value, frozenset({"name", "version", "build", "reason"}), frozenset({"reason"})),
    "pip": _pip_changes,
    "variables": lambda value: isinstance(value, dict) and set(value) <= {"drop"} and _texts(value.get("drop") or []),
}


def read_variants(path: Path = DATA / "variants.yml") -> tuple[Variant, ...]:
    """Read the variants. Raises InputError with file and line."""
    data, lines = yamlfile.load_under(path, WHAT, "variants", dict)
    found = []
    for name, item in data["variants"].items():
        where = f"{path}:{lines.of('variants', name)}"
        for key in ("platform", "device", "environment", "lock", "suffix", "virtual_packages"):
            if not isinstance(item, dict) or not item.get(key):
                raise InputError(f"{where}: variant {name!r} lacks '{key}'", "correct that entry")
        for key, expected in _SHAPES.items():
            if item.get(key) is not None and not expected(item[key]):
                raise InputError(
                    f"{path}:{lines.of('variants', name, key)}: variant {name!r}: '{key}' is not as the head of the "
                    f"file describes it; found {item[key]!r}",
                    "correct that entry",
                )
        drop = {conda: group["reason"] for group in item.get("drop") or [] for conda in group["names"]}
        texts = {key: item.get(key) for key in _TEXTS}
        found.append(Variant(
            name, **texts, virtual_packages=dict(item["virtual_packages"]), drop=drop, set=item.get("set") or {},
            pip=item.get("pip") or {}, drop_variables=tuple((item.get("variables") or {}).get("drop") or ()),
        ))  # fmt: skip
    return tuple(found)


def choose_variant(variants: tuple[Variant, ...], platform: str, device: str) -> Variant:
    """Return the variant for `platform` and `device` ("cuda", "cpu").

    Raises InputError naming what there is.
    """
    for variant in variants:
        if variant.platform == platform and variant.device == device:
            return variant
    there = ", ".join(f"{v.platform} {v.device}" for v in variants)
    raise InputError(
        f"there is no lock for {platform} with {device}; there is: {there}",
        "choose with --platform and --variant, or add the variant to src/cogvideo_sat_env/data/variants.yml and relock",
    )


def derive(environment: Environment, variant: Variant, path: Path) -> Environment:
    """Return environment.yml as changed for `variant`. Raises InputError when a change names what isn't there."""
    names = {spec.name for spec in environment.conda}
    for name in [*variant.drop, *variant.set]:
        if name not in names:
            raise InputError(
                f"variant {variant.id}: '{name}' is not in {environment.path}",
                "correct src/cogvideo_sat_env/data/variants.yml",
            )
    pieces = pieces_of(environment, variant.pip)
    placed = {} if variant.is_primary else environment.placements.get(variant.id, {})
    conda: list[CondaSpec] = []
    pip: list[PipSpec] = []
    left = {piece.name: piece for piece in pieces}

    def origin_of(piece: Piece) -> str:
        if piece.name in placed:
            return placed[piece.name].origin
        # no lock has placed it: as the files that people write say it
        is_changed = any(canonicalize_name(name) == canonicalize_name(piece.name) for name in variant.pip)
        return "pip" if is_changed or environment.pip_spec(piece.name) else "conda"

    def place(piece: Piece) -> None:
        del left[piece.name]
        here, origin = placed.get(piece.name), origin_of(piece)
        spec = piece.conda if origin == "conda" else piece.pip
        if spec is None:
            raise InputError(
                f"{environment.path}: {variant.id} has {piece.name} from {origin}, where its bound can't be expressed",
                "write another bound, or lock again",
            )
        if not variant.is_primary:
            spec = replace(spec, comment=marked(spec.comment, here if origin == "pip" else None))
        (conda if isinstance(spec, CondaSpec) else pip).append(spec)  # type: ignore[arg-type]

    by_conda = {piece.conda.name: piece for piece in pieces if piece.conda}
    dropped = {canonicalize_name(name) for name, change in variant.pip.items() if "drop" in change}
    dropped_conda = {load_names().to_conda(name) for name in dropped} | set(variant.drop)
    for spec in environment.conda:
        piece = by_conda.get(spec.name)
        if piece is not None and origin_of(piece) == "conda":
            place(piece)
        elif piece is None and spec.name not in dropped_conda:
            conda.append(_set(spec, variant.set.get(spec.name)))
    by_pip = {canonicalize_name(piece.name): piece for piece in pieces}
    for pinned in environment.pip:
        name = canonicalize_name(pinned.name)
        if name in by_pip:
            place(by_pip[name])
        elif name not in dropped:
            pip.append(pinned)
    for piece in list(left.values()):
        place(piece)
    variables = {key: value for key, value in environment.variables.items() if key not in variant.drop_variables}
    name = environment.name + ("" if variant.is_primary else "-data" if variant.data_only else "")
    return replace(environment, path=path, name=name, conda=tuple(conda), pip=tuple(pip), variables=variables)


def _set(spec: CondaSpec, change: Mapping[str, str] | None) -> CondaSpec:
    if not change:
        return spec
    return CondaSpec(
        change.get("name", spec.name),
        change.get("version", spec.version),
        change.get("build", spec.build),
        comment=change["reason"],
    )


def render_environment(environment: Environment, variant: Variant) -> str:
    """Return the text of a generated environment file: what `mamba env create -f` takes."""
    about = f"{variant.platform}, {variant.device}"
    lines = [
        f"# CogVideoX with SAT on {about}. Generated from environment.yml by `scripts/satenv lock`; don't edit.",
        f"#   mamba env create -f {variant.environment}",
    ]
    if variant.data_only:
        lines.append(f"# For data preparation only: {variant.data_only}.")
    there = {spec.name for spec in environment.conda}
    lines += [f"# Left out: {name} ({reason})." for name, reason in variant.drop.items() if name not in there]
    lines += [f"# Left out: {name} ({change['drop']})." for name, change in variant.pip.items() if "drop" in change]
    lines += [f"name: {environment.name}", "channels:"]
    lines += [f"  - {channel}" for channel in environment.channels]
    lines.append("dependencies:")
    lines += [f"  - {spec}" + (f"  # {spec.comment}" if spec.comment else "") for spec in environment.conda]
    if environment.pip:
        lines.append("  - pip:")
        lines += [f"    - {spec}" + (f"  # {spec.comment}" if spec.comment else "") for spec in environment.pip]
    if environment.variables:
        lines.append("variables:")
        lines += [f'  {key}: "{value}"' for key, value in environment.variables.items()]
    return "\n".join(lines) + "\n"


def guess_device(platform: str) -> tuple[str, str]:
    """Return the device that `--variant auto` means on this machine, and the reason in words."""
    if not platform.startswith("linux"):
        return "cpu", f"{platform} has no CUDA"
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists():
        return "cuda", "this machine has an NVIDIA driver"
    if Path("/etc/slurm").is_dir() or any(name.startswith("SLURM_") for name in os.environ) or shutil.which("srun"):
        return "cuda", "this is a node of a Slurm cluster, whose compute nodes are taken to have GPUs"
    return "cpu", "this machine has no NVIDIA driver; for one that has, say --variant cuda"

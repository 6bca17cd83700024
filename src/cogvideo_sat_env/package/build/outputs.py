"""What recipe/ builds for a platform, in order, and the digest of what each package is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.command_name import METAPACKAGE
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.timestamp import timestamp
from cogvideo_sat_env.package.build.worker import do
from cogvideo_sat_env.spec.variants import read_variants

READERS = {"linux-aarch64": "decord2", "osx-arm64": "eva-decord"}  # in decord's place, where it has no wheel
ENGINE = "3"  # raise it when finished packages would come out differently: it is part of every digest


@dataclass(frozen=True)
class Output:
    """One package of the recipe as rendered. `index` is its place in the order of building."""

    index: int
    name: str
    version: str
    build: str
    subdir: str

    @property
    def device(self) -> str | None:
        """Return what the metapackage was built for: cuda or cpu; None for every other package."""
        if self.name != METAPACKAGE:
            return None
        return "cuda" if self.build.startswith("cuda") else "cpu"

    @property
    def file_name(self) -> str:
        """Return the name of the archive."""
        return f"{self.name}-{self.version}-{self.build}.conda"


def plan(recipe: Path, platform: str, wanted: Sequence[str]) -> list[Output]:
    """Return what is built for `platform`, in order; of the metapackage only the variants `wanted` (none: all).

    `wanted` are devices ("cuda", "cpu") or names of data/variants.yml. Raises InputError for a platform or variant that
    doesn't exist, or a recipe that can't be rendered.
    """
    known = read_variants()
    platforms = sorted({variant.platform for variant in known})
    if platform not in platforms:
        raise InputError(
            f"nothing is built for {platform}; there is: {', '.join(platforms)} (decord has wheels for linux-64 only; "
            + ", ".join(f"{name} takes its place on {subdir}" for subdir, name in READERS.items())
            + ")",
            "choose with --platform",
        )
    here = {variant.id: variant.device for variant in known if variant.platform == platform}
    devices = set()
    for name in wanted:
        if name not in here and name not in here.values():
            raise InputError(
                f"there is no variant {name!r} for {platform}; there is: {', '.join([*here.values(), *here])}",
                "choose with --variant",
            )
        devices.add(here.get(name, name))
    return [o for o in render(recipe, platform) if o.name != METAPACKAGE or not devices or o.device in devices]


def render(recipe: Path, platform: str) -> list[Output]:
    """Return all that recipe.yaml in the folder `recipe` builds for `platform`, in order.

    Raises InputError with the engine's reason, SatenvError when the engine crashed.
    """
    request = {"do": "render", "recipe": str(recipe), "platform": platform, "build_platform": current_platform()}
    answer = do(request)
    if "error" in answer:
        raise InputError(
            f"{recipe / 'recipe.yaml'}: can't be rendered: {answer['error']}", "restore the file, e.g. with git"
        )
    return [Output(**item) for item in answer["outputs"]]


def inputs_digest(root: Path, output: Output, platform: str) -> str:
    """Return the SHA-256 over everything that the bytes of a package depend on: recipe, sources, platform, engine."""
    where = "noarch" if output.subdir == "noarch" else platform
    digest = hashlib.sha256(f"{ENGINE}\n{where}\n{output.file_name}\n{timestamp()}\n".encode())
    for path in _files(root, output):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(root: Path, output: Output) -> Iterator[Path]:
    recipe = root / "recipe"
    for path in sorted(recipe.rglob("*")):
        theirs = path.relative_to(recipe).parts
        if not path.is_file() or "__pycache__" in theirs:
            continue
        if theirs[0] == "patches" and theirs[1] != output.name:
            continue
        if theirs[0] == "command" and output.name != METAPACKAGE:
            continue
        yield path
    if output.name != METAPACKAGE:
        yield root / "src" / "cogvideo_sat_env" / "base" / "wheel_patch.py"
    else:
        yield root / "LICENSE"
        yield from (p for p in sorted((root / "src").rglob("*")) if p.is_file() and "__pycache__" not in p.parts)

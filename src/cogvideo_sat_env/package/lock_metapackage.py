"""`satenv lock --with-channel`: an environment that is nothing but the metapackage, locked with a built channel.

Everything in it is a conda package with a SHA-256, so a site can mirror one channel and create from the lock alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cogvideo_sat_env.base.command_name import METAPACKAGE, satenv
from cogvideo_sat_env.base.errors import InputError, SolveError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.lock import conda_lock, render
from cogvideo_sat_env.lock.make import Solver, lock_variant
from cogvideo_sat_env.lock.read import Lock, load_lock, read_lock
from cogvideo_sat_env.lock.verify_lock import verify_entries, verify_solution
from cogvideo_sat_env.package.publish.built import read_built
from cogvideo_sat_env.spec.environment import CondaSpec, Environment, read_environment
from cogvideo_sat_env.spec.variants import Variant, read_variants

DEFAULT = "linux-64-cuda"
ENDING = "conda-lock.yml"  # what conda-lock itself and micromamba know such a file by
HEADER = """\
# Lock of an environment that is nothing but cogvideo-sat-env, made by `scripts/satenv lock --with-channel`; don't edit.
# Every package is a conda package with URL and SHA-256; nothing comes from pip. For: {platforms}.
#
#   conda-lock install -n cogvideo-sat {name}
#   micromamba create -n cogvideo-sat -f {name}
"""


@dataclass(frozen=True)
class MetapackageOptions:
    """How the metapackage is locked.

    `only` are variants (none: the CUDA one of linux-64). `channel_url` is the base URL that the lock gives to the
    channel's packages, where it isn't the channel itself; `override_channels`: it is the only channel, with copies of
    everything else. `frozen` and `conda` as for the project's own locks. `out` is the conda-lock file (for one
    variant); the explicit lockfile is written beside it.
    """

    only: Sequence[str] = ()
    channel_url: str | None = None
    override_channels: bool = False
    frozen: Path | None = None
    conda: Path | None = None
    out: Path | None = None


def lock_with_channel(root: Path, channel: str, options: MetapackageOptions, progress: Progress) -> list[str]:
    """Lock the metapackage of `channel` (a folder or URL); return the files that changed.

    Raises InputError, VerificationError, SolveError, SourceError, MissingToolError.
    """
    variants = {variant.id: variant for variant in read_variants()}
    names = list(options.only) or [DEFAULT]
    for name in names:
        if name not in variants:
            raise InputError(f"no variant {name!r}", f"there is: {', '.join(variants)}")
    if options.out is not None and len(names) > 1:
        raise InputError(f"--out names one file; there are {len(names)} variants", "lock one at a time, with --only")
    asked = _address(channel)
    real = (options.channel_url or asked).rstrip("/")
    environment = _environment(root, real, options.override_channels)
    solver = Solver(options.frozen, options.conda, {real: asked})
    texts: dict[Path, str] = {}
    for name in names:
        path = _path(root, options.out, name)
        variant = replace(variants[name], environment=METAPACKAGE, lock=path.name)
        texts |= _lock(environment, variant, path, solver, progress)
    return [str(path) for path, text in texts.items() if render.write_files(path.parent, {path.name: text})]


def _address(channel: str) -> str:
    """Return where the channel is read. A folder is proven first: the lock would only repeat what its index claims."""
    if "://" in channel:
        return channel.rstrip("/")
    folder = Path(channel)
    if not folder.is_dir():
        raise InputError(f"{channel}: no such folder", f"make a channel with {satenv('build')}, or give its URL")
    read_built(folder)
    return folder.resolve().as_uri()


def _environment(root: Path, channel: str, override: bool) -> Environment:
    # first, and with strict priority: what it builds has to win over conda-forge's package of the same name
    others = () if override else read_environment(root / "environment.yml").channels
    return Environment(Path(METAPACKAGE), "cogvideo-sat", (channel, *others), (CondaSpec(METAPACKAGE),), (), {})


def _path(root: Path, out: Path | None, variant: str) -> Path:
    path = (out or Path(f"{METAPACKAGE}-{variant}.{ENDING}")).absolute()
    if not path.name.endswith(ENDING):
        raise InputError(f"{path}: expected a name that ends with {ENDING}", "conda-lock and micromamba go by it")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", "make it, or name another file with --out")
    if path == root / ENDING or path.is_relative_to(root / "locks"):
        raise InputError(f"{path}: is for the project's own locks", "name another file with --out")
    return path


def _lock(
    environment: Environment, variant: Variant, path: Path, solver: Solver, progress: Progress
) -> dict[Path, str]:
    locked = lock_variant(environment, variant, solver, progress=progress)
    text = conda_lock.dump(conda_lock.merge([locked.content]), path.name, HEADER)
    with scratch_folder("satenv-render-") as folder:
        written = Path(folder) / path.name
        written.write_text(text, encoding="utf-8")
        document = load_lock(written)
        lock = read_lock(written, variant.platform, document=document)
        findings = verify_entries(document, path.name, environment.channels)
    findings += verify_solution(environment, variant, lock)
    if findings or lock.pip:
        words = "\n".join(finding.message for finding in findings[:5]) or f"{len(lock.pip)} pip packages in it"
        raise SolveError(f"{variant.id}: the lock doesn't hold: {words}", "correct the channel that it names")
    _require_device(variant, lock)
    explicit = path.with_name(path.name.removesuffix(ENDING).rstrip(".-") + ".lock")
    head = [
        f"# Explicit lockfile of cogvideo-sat-env for {variant.id}, made by `scripts/satenv lock --with-channel`.",
        f"#   mamba create -n cogvideo-sat --file {explicit.name}",
    ]
    return {path: text, explicit: render.explicit(head, lock)}


def _require_device(variant: Variant, lock: Lock) -> None:
    """Raise SolveError when the solver took the metapackage's build for another device."""
    build = next(artefact.build for artefact in lock.conda if artefact.name == METAPACKAGE)
    if not build.startswith(variant.device):
        raise SolveError(
            f"{variant.id}: the solver took {METAPACKAGE} {build}; expected a build for {variant.device}",
            f"build that variant into the channel: {satenv('build --platform', variant.platform)}",
        )

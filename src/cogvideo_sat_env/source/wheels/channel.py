"""A local conda channel made of a wheel lock: converted, indexed, solved by the same solver as every other source."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import cache_use, diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact, split_url
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.files import link_or_copy, write_atomically
from cogvideo_sat_env.base.locked import locked
from cogvideo_sat_env.base.permissions import cache_umask, require_private
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import sweep
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.source.local_channel import index_channel
from cogvideo_sat_env.source.wheels.convert import ConvertedPackage, convert
from cogvideo_sat_env.source.wheels.interpreter import Interpreter, probe
from cogvideo_sat_env.source.wheels.lockfile import read_wheel_lock
from cogvideo_sat_env.source.wheels.names import NotProvided, divide
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import load_names


@dataclass(frozen=True)
class WheelChannel:
    """A local channel made of wheels, and its solution.

    `specs` are the match specs of the environment file that it satisfies, Python's relaxed to the running one;
    `artefacts` all packages of the lock, solved together; `converted` and `reused` count packages;
    `patched` has the file names of the patches in a package, by its name.
    """

    path: Path
    specs: tuple[str, ...]
    not_provided: tuple[NotProvided, ...]
    converted: int
    reused: int
    artefacts: tuple[CondaArtefact, ...]
    patched: Mapping[str, list[str]]


def build_channel(
    environment: Environment,
    lock: Path,
    *,
    python: Path,
    cache: Path,
    progress: Progress,
    recipe: Path | None = None,
) -> WheelChannel:
    """Turn the wheel lock into a local channel below `cache` and solve the environment file's specs over it.

    `python` becomes the package `python`; the lock must be for its minor version. The patches of the folder `recipe`
    are in the packages. Downloads and conversions are kept:
    a second call converts nothing. Safe when two run at once (the second waits), and when killed.
    Raises InputError, SourceError, VerificationError, PrefixError, SolveError.
    """
    interpreter = probe(python)
    wheels = read_wheel_lock(lock)
    if (wheels.platform, wheels.python) != (interpreter.platform, interpreter.minor):
        raise InputError(
            f"{lock}: made for {wheels.platform} with Python {wheels.python}; this is "
            f"{interpreter.platform} with Python {interpreter.minor} ({python})",
            "take the wheel lock of this Python, or run with another one",
        )
    names = load_names()
    wanted, not_provided = divide(environment, names)
    locked = {pin.name for pin in wheels.pins}
    unlocked = sorted({item.pypi for item in wanted} - locked)
    if unlocked:
        raise InputError(
            f"{lock}: has no {', '.join(unlocked)}, which {environment.path} asks for",
            f"make it again with: {satenv('lock --wheels')}",
        )
    programs = [names.programs[s.name] for s in environment.conda if s.name in names.programs]
    with diskspace.watch(cache, "converted wheels"), cache_umask():
        cache.mkdir(parents=True, exist_ok=True)
    require_private(cache, *(cache / name for name in ("built", "packages", "channels")))
    with (
        diskspace.watch(cache, "converted wheels"),
        cache_use.in_use(cache, progress),
        cache_umask(),
        hold_wheels(cache, progress),
    ):
        sweep(cache / "tmp")  # what killed runs left; an image's environment, which another run makes there, is locked
        conversion = convert(wheels, programs, interpreter=interpreter, cache=cache, progress=progress, recipe=recipe)
        progress.say(f"Conda packages from wheels: {conversion.converted} converted, {conversion.reused} reused")
        path = make_channel(conversion.packages, interpreter, cache)
        patched = {package.name: list(package.patches) for package in conversion.packages if package.patches}
    specs = (f"python {interpreter.minor}.*", *(item.conda_spec for item in wanted))
    artefacts = _solve(path, specs, conversion.packages, interpreter)
    return WheelChannel(path, specs, tuple(not_provided), conversion.converted, conversion.reused, artefacts, patched)


def hold_wheels(cache: Path, progress: Progress) -> AbstractContextManager[None]:
    """Keep other runs from converting wheels in `cache`, after waiting for the one that does."""
    text = f"Another run is converting wheels in {cache}: waiting for it"
    return locked(cache / "wheels.lock", cache, lambda: progress.say(text))


def make_channel(
    packages: Sequence[ConvertedPackage], interpreter: Interpreter, cache: Path, *, place: str = "channels",
    add: Callable[[Path], None] = lambda _: None,
) -> Path:  # fmt: skip
    """Return the channel folder of exactly these packages: the one that is there, or a new one, by one rename.

    It lies in the folder `place` of the cache; `add` puts more into a new one before it is indexed.
    """
    listing = "\n".join(sorted(f"{package.file_name} {package.sha256}" for package in packages))
    target = cache / place / hashlib.sha256(listing.encode()).hexdigest()[:16]
    if _is_whole(target, packages, interpreter):
        cache_use.mark_used(target)
        return target
    shutil.rmtree(target, ignore_errors=True)  # parts of it were purged
    _refuse_clashes(packages, interpreter)
    target.parent.mkdir(exist_ok=True)
    (cache / "tmp").mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=cache / "tmp"))
    subdir = partial / interpreter.platform
    for folder in (subdir, partial / "noarch"):
        folder.mkdir()
    for package in packages:
        link_or_copy(package.archive(cache), subdir / package.file_name)
    add(partial)
    index_channel(partial, "the cache of converted wheels may be damaged: delete it and run again")
    _compare(packages, subdir)
    partial.chmod(0o755)  # mkdtemp makes it private
    partial.replace(target)
    return target


def _is_whole(channel: Path, packages: Sequence[ConvertedPackage], interpreter: Interpreter) -> bool:
    """Whether the channel's index and all its files are there: scratch file systems purge what wasn't read for long."""
    subdir = channel / interpreter.platform
    try:
        good = all((subdir / package.file_name).stat().st_size == package.size for package in packages)
        return good and all((channel / name / "repodata.json").stat().st_size for name in (subdir.name, "noarch"))
    except OSError:
        return False


def _compare(packages: Sequence[ConvertedPackage], subdir: Path) -> None:
    """The index was made by reading every byte: what it found must be what was converted, maybe long ago."""
    repodata = json.loads((subdir / "repodata.json").read_text(encoding="utf-8"))
    indexed = repodata.get("packages.conda", {})
    for package in packages:
        found = indexed.get(package.file_name, {}).get("sha256")
        if found != package.sha256:
            raise VerificationError(
                f"{subdir / package.file_name}: expected sha256 {package.sha256}, found {found or 'no record'}",
                "the cache is damaged: delete it and run again",
            )


def _refuse_clashes(packages: Sequence[ConvertedPackage], interpreter: Interpreter) -> None:
    owners: dict[str, str] = {}
    for package in packages:
        for packed in package.paths:
            path = re.sub(r"^site-packages/", f"{interpreter.site_packages}/", packed)  # of a noarch package
            if path in owners:
                raise VerificationError(
                    f"{path}: in both {owners[path]} and {package.name}; one would overwrite the other",
                    "lock other versions of the two",
                )
            if path.startswith("conda-meta/"):
                raise VerificationError(f"{package.name}: writes into {path}, which is conda's", "lock another version")
            owners[path] = package.name


def _solve(
    path: Path, specs: Sequence[str], packages: Sequence[ConvertedPackage], interpreter: Interpreter
) -> tuple[CondaArtefact, ...]:
    """Return the solution of `specs` over the channel in `path`. Kept in it: neither of them changes."""
    # every package of the lock is asked for: pip also locked what only extras bring, such as aiohttp for fsspec[http]
    exactly = [f"{package.name} =={package.version} {package.build}" for package in packages]
    url, wanted = path.resolve().as_uri(), [*specs, *exactly]
    kept = path / f"solution-{hashlib.sha256(json.dumps([url, wanted]).encode()).hexdigest()[:16]}.json"
    try:
        return tuple(map(_artefact, json.loads(kept.read_bytes())))
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged
        records = sorted(solve([url], wanted, interpreter.platform, {}), key=lambda record: record["name"])
    with diskspace.watch(path, "the solution"), cache_umask():
        write_atomically(kept, json.dumps(records).encode(), durable=False)
    return tuple(map(_artefact, records))


def _artefact(record: dict) -> CondaArtefact:
    channel, subdir, file_name = split_url(record["url"])
    return CondaArtefact(
        record["name"], record["version"], record["build"], subdir, channel, file_name, record["url"],
        record["sha256"], record.get("md5") or "", record.get("size"), tuple(record.get("depends") or ()),
    )  # fmt: skip

"""Where a build's Python and pip come from: the channels of environment.yml, or wheels where they don't answer."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cogvideo_sat_env.base.artefacts import PipPin, channel_url
from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.paths import cache_dir
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.fetch.index import Index
from cogvideo_sat_env.fetch.pip_config import index_urls
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.package.build.worker import do
from cogvideo_sat_env.source.wheels.channel import build_channel, hold_wheels, make_channel
from cogvideo_sat_env.source.wheels.convert import convert, to_fetch
from cogvideo_sat_env.source.wheels.fetch import fetch
from cogvideo_sat_env.source.wheels.lockfile import choose_python, read_wheel_lock
from cogvideo_sat_env.spec.environment import read_environment

# what recipe.yaml asks for to build with, the program of python-ninja, and what tests without PyTorch need
NEEDED = ("pip", "setuptools", "ninja", "numpy", "braceexpand", "pyyaml")


@dataclass(frozen=True)
class BuildChannels:
    """Channels (URLs, in order of priority) that the builds are made with; `wheels` when they are made of wheels."""

    channels: tuple[str, ...]
    wheels: bool = False


def find_base(root: Path, named: Sequence[str], progress: Progress) -> BuildChannels:
    """Return the channels `named`, else those of environment.yml when they answer, else a channel made of wheels.

    Raises InputError, SourceError, VerificationError, PrefixError.
    """
    for name in named:
        if name.startswith((".", "/")) and not Path(name).is_dir():
            raise InputError(f"{name}: no such folder; expected a conda channel", "see --channel")
        if Path(name).is_dir() and not any(Path(name).glob("noarch/repodata.json*")):
            raise InputError(f"{name}: not an indexed channel; expected noarch/repodata.json there", "see --channel")
    if named:
        return BuildChannels(tuple(Path(n).resolve().as_uri() if Path(n).is_dir() else channel_url(n) for n in named))
    environment = read_environment(root / "environment.yml")
    urls = [channel_url(name) for name in environment.channels]
    reason = why_unreachable(f"{urls[0]}/noarch/repodata.json.zst")
    if reason is None:
        progress.say(f"Building with {', '.join(environment.channels)}")
        return BuildChannels(tuple(urls))
    progress.say(f"{urls[0]}: {reason}")
    progress.say("Building with Python and pip from wheels of the package index, in conda packages")
    return BuildChannels((_from_wheels(root, progress),), wheels=True)


def whole_environment_to_fetch(root: Path) -> str:
    """Return how much `whole_environment` would download, in words; nothing when all is in the cache."""
    interpreter, lock = choose_python(root / "locks", None)
    wheels = read_wheel_lock(lock)
    return _amount(to_fetch(wheels, interpreter=interpreter, cache=cache_dir(), recipe=root / "recipe"))


def _amount(pins: Sequence[PipPin]) -> str:
    """Return number and size of the files as the package index tells them; nothing for no file."""
    if not pins:
        return ""
    index, size = Index(index_urls()), 0
    try:
        for pin in pins:
            found = next((f.size for f in index.files(pin.name) if f.sha256 == pin.sha256 and f.size is not None), None)
            if found is None:
                return f"{len(pins)} wheels, of a size that the index doesn't tell"
            size += found
    except SourceError:  # asked for their size only: fetching them will say what is wrong
        return f"{len(pins)} wheels, of unknown size"
    return f"{len(pins)} wheels, {human_bytes(size)}"


def whole_environment(root: Path, progress: Progress) -> str:
    """Return the URL of a channel with all of environment.yml that wheels provide: what tests of SAT need."""
    interpreter, lock = choose_python(root / "locks", None)
    environment = read_environment(root / "environment.yml")
    amount = whole_environment_to_fetch(root)
    if amount:
        progress.say(f"Fetching for the tests: {amount}")
    channel = build_channel(
        environment, lock, python=interpreter.executable, cache=cache_dir(), progress=progress, recipe=root / "recipe"
    )
    return channel.path.resolve().as_uri()


def _from_wheels(root: Path, progress: Progress) -> str:
    interpreter, path = choose_python(root / "locks", None)
    whole = read_wheel_lock(path)
    lock = replace(whole, pins=tuple(pin for pin in whole.pins if pin.name in NEEDED))
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    amount = _amount(to_fetch(lock, interpreter=interpreter, cache=cache))
    if amount:
        progress.say(f"Fetching to build with: {amount}")
    with hold_wheels(cache, progress):
        done = convert(lock, [], interpreter=interpreter, cache=cache, progress=progress)

        pin = next(pin for pin in lock.pins if pin.name == "ninja")

        def add(channel: Path) -> None:
            wheel = fetch(lock, [pin], interpreter=interpreter, cache=cache, progress=progress)[pin.name]
            _ninja_program(wheel, pin.version, interpreter.platform, channel)

        return make_channel(done.packages, interpreter, cache, place="build-base", add=add).resolve().as_uri()


def _ninja_program(wheel: Path, version: str, platform: str, channel: Path) -> None:
    """Pack the program of the ninja wheel as conda-forge's package `ninja`: over it python-ninja is tested."""
    with tempfile.TemporaryDirectory(dir=channel.parent) as stage:
        program = Path(stage, "bin", "ninja")
        program.parent.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            inside = next((name for name in archive.namelist() if name.endswith(".data/scripts/ninja")), None)
            if inside is None:
                raise VerificationError(f"{wheel.name}: holds no program ninja", "lock another version")
            program.write_bytes(archive.read(inside))
        program.chmod(0o755)
        answer = do(
            {
                "do": "pack a program", "name": "ninja", "version": version, "platform": platform,
                "stage": stage, "out": str(channel / platform),
                "summary": f"The program of the wheel ninja {version}",
            }
        )  # fmt: skip
    if "error" in answer:
        raise VerificationError(f"{wheel.name}: can't be packed: {answer['error']}", "lock another version")

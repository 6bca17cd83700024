"""The files of a wheel lock in the cache: downloaded by pip against their hashes; sdists built into wheels."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.cache_layers import has_file
from cogvideo_sat_env.base.errors import SourceError, VerificationError
from cogvideo_sat_env.base.files import link_or_copy
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.fetch.wanted import artefact_path
from cogvideo_sat_env.source.wheels.interpreter import Interpreter, private_venv
from cogvideo_sat_env.source.wheels.lockfile import WheelLock, is_sdist, write_requirements
from cogvideo_sat_env.source.wheels.pip import download, run_pip

_CALLS = 3  # pip calls at once: one alone is bound by its own hashing and writing
_BATCH = 8  # files in one call: pip takes half a second to start


def file_path(cache: Path, pin: PipPin) -> Path:
    """Return where the cache keeps the file of `pin`."""
    return artefact_path(cache, pin.sha256, pin.file_name)


def fetch(
    lock: WheelLock, pins: Sequence[PipPin], *, interpreter: Interpreter, cache: Path, progress: Progress
) -> dict[str, Path]:
    """Have the wheel of each of `pins` in the cache, an sdist's built one too; return the wheels by name.

    Downloads what is missing or differs from its hash. Raises SourceError, VerificationError, PrefixError.
    """
    wheels = [pin for pin in pins if not is_sdist(pin)]
    sdists = [pin for pin in pins if is_sdist(pin)]
    built = {pin: _built_folder(cache, pin, lock.build, interpreter) for pin in sdists}
    to_build = [pin for pin in sdists if not _built_wheel(built[pin])]
    to_download = missing([*wheels, *(lock.build if to_build else ())], cache)
    with scratch_folder("fetch-", cache / "tmp") as work:
        _download(private_venv(interpreter, work / "venv"), to_download, work, cache, progress)
        if to_build:
            _build_all(interpreter, lock, to_build, built, work, cache, progress)
    found = {pin.name: file_path(cache, pin) for pin in wheels}
    found.update({pin.name: _require_built(built[pin], pin) for pin in sdists})
    return found


def build_venv(interpreter: Interpreter, build: Sequence[PipPin], folder: Path, files: Path | None = None) -> Path:
    """Make a virtual environment that holds the pinned build requirements and nothing else; return its Python.

    `files` is a folder with their wheels, so that no index is asked; None asks the configured index.
    """
    venv = private_venv(interpreter, folder)
    requirements = write_requirements(build, folder / "build-requirements.txt")
    source = ["--no-index", "--find-links", str(files)] if files else []
    run_pip(
        venv,
        ["install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", *source,
         "-r", str(requirements)],
        "can't install the build requirements",
    )  # fmt: skip
    return venv


def build_sdist(venv: Path, pin: PipPin, sdist: Path, out: Path) -> Path:
    """Build the sdist into a wheel in the folder `out`, with what `venv` holds and nothing else; return the wheel.

    Raises SourceError with the build's last lines, VerificationError when it isn't the version that is locked.
    """
    out.mkdir(parents=True, exist_ok=True)
    run_pip(
        venv,
        ["wheel", "--quiet", "--no-deps", "--no-index", "--no-cache-dir", "--use-pep517", "--no-build-isolation",
         "-w", str(out), str(sdist)],
        f"can't build {pin.file_name}",
        SOURCE_DATE_EPOCH=str(EPOCH),
        PYTHONHASHSEED="0",
        GIT_DIR=os.devnull,  # deepspeed asks git for a revision and would find that of a repository around the cache
    )  # fmt: skip
    wheel = next((path for path in sorted(out.glob("*.whl")) if _is_of(path, pin)), None)
    if wheel is None:
        names = ", ".join(path.name for path in out.glob("*.whl"))
        raise VerificationError(
            f"{pin.file_name}: built {names or 'nothing'}; expected {pin.name} {pin.version}", "lock again"
        )
    return wheel


def _is_of(wheel: Path, pin: PipPin) -> bool:
    name, version, _, _ = parse_wheel_filename(wheel.name)
    return name == canonicalize_name(pin.name) and str(version) == pin.version


def missing(pins: Sequence[PipPin], cache: Path) -> list[PipPin]:
    """Return the pins whose file isn't in the cache; one with other bytes is thrown away."""
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(lambda pin: _is_right(pin, cache), pins))
    return [pin for pin, good in zip(pins, right, strict=True) if not good]


def _is_right(pin: PipPin, cache: Path) -> bool:
    path = file_path(cache, pin)
    former = cache / "files" / pin.sha256 / pin.file_name  # where older versions kept it
    if not path.is_file() and former.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(former, path)
    return has_file(cache, path, pin.sha256)


def _download(venv: Path, pins: list[PipPin], work: Path, cache: Path, progress: Progress) -> None:
    if not pins:
        return
    count = -(-len(pins) // _BATCH)
    batches = [pins[start::count] for start in range(count)]  # dealt out: the big nvidia files are neighbours
    with progress.task("Downloading wheels", len(pins), "packages") as task, ThreadPoolExecutor(_CALLS) as pool:
        calls = [pool.submit(_download_batch, venv, batch, work / str(n), cache) for n, batch in enumerate(batches)]
        done = size = 0
        try:
            for call in as_completed(calls):
                files, length = call.result()
                done, size = done + files, size + length
                task.advance(files)
                task.note(human_bytes(size))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress.say(f"Downloaded {done} files, {human_bytes(size)}")


def _download_batch(venv: Path, pins: list[PipPin], folder: Path, cache: Path) -> tuple[int, int]:
    download(venv, pins, folder, "can't download the wheels", "--only-binary", ":all:")
    return len(pins), sum(keep(pin, folder, cache) for pin in pins)


def keep(pin: PipPin, folder: Path, cache: Path) -> int:
    """Move the downloaded file of `pin` to its place in the cache; return its size in bytes."""
    source = folder / pin.file_name
    if not source.is_file():  # the index may spell the name otherwise; the hash decides
        source = next((path for path in sorted(folder.iterdir()) if sha256_file(path) == pin.sha256), source)
    if not source.is_file():
        raise SourceError(f"{pin.file_name}: pip downloaded another file of {pin.name}", "lock again")
    target = file_path(cache, pin)
    target.parent.mkdir(parents=True, exist_ok=True)
    size = source.stat().st_size
    source.replace(target)
    return size


def _built_folder(cache: Path, pin: PipPin, build: Sequence[PipPin], interpreter: Interpreter) -> Path:
    parts = [pin.sha256, interpreter.minor, interpreter.platform, *sorted(item.sha256 for item in build)]
    return cache / "built" / hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _built_wheel(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.whl"))), None)


def _require_built(folder: Path, pin: PipPin) -> Path:
    wheel = _built_wheel(folder)
    if wheel is None:
        raise SourceError(f"{pin.file_name}: nothing was built", "look at the lines above")
    return wheel


def _build_all(
    interpreter: Interpreter,
    lock: WheelLock,
    pins: list[PipPin],
    built: dict[PipPin, Path],
    work: Path,
    cache: Path,
    progress: Progress,
) -> None:
    files = work / "build-files"
    files.mkdir()
    for pin in lock.build:
        shutil.copyfile(file_path(cache, pin), files / pin.file_name)
    with progress.task("Building wheels from source", len(pins), "packages") as task:
        venv = build_venv(interpreter, lock.build, work / "build-venv", files)
        for pin in pins:
            task.note(pin.name)
            sdist = file_path(cache, pin)
            if not _is_right(pin, cache):
                folder = work / f"sdist-{pin.name}"
                # pip runs setup.py even to download: with the pinned build requirements only
                options = ("--no-binary", pin.name, "--use-pep517", "--no-build-isolation")
                download(venv, [pin], folder, f"can't download {pin.file_name}", *options)
                keep(pin, folder, cache)
            wheel = build_sdist(venv, pin, sdist, work / f"built-{pin.name}")
            built[pin].mkdir(parents=True, exist_ok=True)
            wheel.replace(built[pin] / wheel.name)
            task.advance(1)

"""Wheels into conda packages: laid out, bytecode compiled, packed; kept in a cache, each under a key of its content."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import cache_use, diskspace
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.cache_layers import layers_from_environment, trusted_layers
from cogvideo_sat_env.base.errors import SourceError, VerificationError
from cogvideo_sat_env.base.files import link_or_copy, write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.base.wheel_patch import patches_of
from cogvideo_sat_env.install.pip_stage import patched_copy
from cogvideo_sat_env.source.wheels.fetch import fetch, file_path
from cogvideo_sat_env.source.wheels.interpreter import BUILD, Interpreter, lay_out_python
from cogvideo_sat_env.source.wheels.lockfile import WheelLock, is_sdist
from cogvideo_sat_env.source.wheels.metadata import build_string, depends, oldest_minor, read_metadata, shared_depends
from cogvideo_sat_env.source.wheels.wheel_files import lay_out
from cogvideo_sat_env.spec.pypi_names import Program, load_names

_SHARED = "shared"  # in the keys of what can be the same for every Python
CONVERTER = "1"  # raise it when converted packages would come out differently: it is part of every cache key
_STAMP = datetime.fromtimestamp(EPOCH, tz=timezone.utc)
_RECORD = "package.json"


@dataclass(frozen=True)
class ConvertedPackage:
    """A converted package in the cache. `paths` are its files below a prefix, `size` is in bytes."""

    key: str
    name: str
    version: str
    build: str
    file_name: str
    sha256: str
    size: int
    paths: tuple[str, ...]
    python_version: str | None = None  # set when its dependencies were decided by Python's patch version
    patches: tuple[str, ...] = ()  # file names of the patches in it, of recipe/patches

    def archive(self, cache: Path) -> Path:
        """Return where the cache keeps the package archive."""
        return cache / "packages" / self.key / self.file_name


@dataclass(frozen=True)
class _Task:
    """One package to make, for a worker process: of a wheel, of a program in a wheel, or (neither) of Python."""

    key: str
    interpreter: Interpreter
    work: Path
    wheel: Path | None = None
    pin: PipPin | None = None
    program: Program | None = None
    shared_key: str = ""  # in place of `key`, if the package turns out to be the same for every Python
    patches: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Conversion:
    """The packages of a wheel lock, and how many of them were made just now."""

    packages: tuple[ConvertedPackage, ...]
    converted: int
    reused: int


def convert(
    lock: WheelLock,
    programs: Sequence[Program],
    *,
    interpreter: Interpreter,
    cache: Path,
    progress: Progress,
    recipe: Path | None = None,
) -> Conversion:
    """Have every file of the lock, each of `programs`, and Python itself as conda packages in the cache.

    The patches of the folder `recipe` are in them. The caller holds the cache's lock. What is there already is reused;
    nothing is downloaded for it. Raises SourceError, VerificationError, PrefixError.
    """
    tasks = _tasks(lock, programs, interpreter, cache, recipe)
    have = {task.key: found for task in tasks if (found := _cached(cache, task))}
    todo = [task for task in tasks if task.key not in have]
    if todo:
        needed = sorted({task.pin for task in todo if task.pin}, key=lambda pin: pin.name)
        files = fetch(lock, needed, interpreter=interpreter, cache=cache, progress=progress) if needed else {}
        with _work_folder(cache) as work:
            todo = [replace(t, work=work / t.key, wheel=files[t.pin.name] if t.pin else None) for t in todo]
            for task, package in _run(todo, progress):
                _publish(cache, task.work / "out", package)
                have[task.key] = package
    return Conversion(tuple(have[task.key] for task in tasks), len(todo), len(tasks) - len(todo))


def to_fetch(lock: WheelLock, *, interpreter: Interpreter, cache: Path, recipe: Path | None = None) -> list[PipPin]:
    """Return the files of the lock that `convert` would have to download: no package of them is in the cache."""
    tasks = _tasks(lock, (), interpreter, cache, recipe)
    missing = [task.pin for task in tasks if task.pin and not _cached(cache, task)]
    return [pin for pin in missing if not file_path(cache, pin).is_file()]


def _tasks(
    lock: WheelLock, programs: Sequence[Program], interpreter: Interpreter, cache: Path, recipe: Path | None
) -> list[_Task]:
    """Return what the packages of a lock are made from, each with its key in the cache."""
    by_name, names = {pin.name: pin for pin in lock.pins}, load_names()
    work = cache / "tmp"
    key = _key("python", str(interpreter.base), interpreter.version, interpreter.platform)
    tasks = [_Task(key, interpreter, work)]
    for pin in lock.pins:
        patches = tuple(patches_of(recipe, names.to_conda(pin.name))) if recipe else ()
        parts = [json.dumps(names.conda_by_pypi, sort_keys=True), *(p.sha256 for p in lock.build if is_sdist(pin))]
        parts += [sha256_file(patch) for patch in patches]
        shared = ""
        if is_sdist(pin) or oldest_minor(pin.file_name) is not None:
            parts.append(_SHARED)
            shared = _key("wheel", pin.sha256, interpreter.platform, *parts)
        key = _key("wheel", pin.sha256, interpreter.minor, interpreter.platform, *parts)
        tasks.append(_Task(key, interpreter, work, pin=pin, shared_key=shared, patches=patches))
    for program in programs:
        pin = by_name[program.pypi]
        key = _key("program", json.dumps(asdict(program)), pin.sha256, interpreter.minor, interpreter.platform)
        tasks.append(_Task(key, interpreter, work, pin=pin, program=program))
    return tasks


@contextmanager
def _work_folder(cache: Path) -> Iterator[Path]:
    (cache / "tmp").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache / "tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join([CONVERTER, *parts]).encode()).hexdigest()


def _take_from_layer(folder: Path) -> None:
    """Have the converted package `folder` in the cache if a layer has it, its archive as its record says."""
    for layer in trusted_layers(layers_from_environment()):
        there = layer / "packages" / folder.name
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # incomplete there: it is converted here
            record = json.loads((there / _RECORD).read_text(encoding="utf-8"))
            archive = there / record["file_name"]
            if archive.parent == there and sha256_file(archive) == record["sha256"]:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / archive.name).unlink(missing_ok=True)  # what a killed run left
                link_or_copy(archive, folder / archive.name)
                write_atomically(folder / _RECORD, json.dumps(record).encode())  # last: it says that all is there
                return


def _cached(cache: Path, task: _Task) -> ConvertedPackage | None:
    """Return the finished package: the one for every Python, or the one for this."""
    for key in filter(None, (task.shared_key, task.key)):
        folder = cache / "packages" / key
        if not (folder / _RECORD).is_file():
            _take_from_layer(folder)
        try:
            data = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            package = ConvertedPackage(
                **{**data, "paths": tuple(data["paths"]), "patches": tuple(data.get("patches", ()))}
            )
            good = (folder / package.file_name).stat().st_size == package.size
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: it is made again
            continue
        this = task.interpreter.environment["python_full_version"]
        if good and package.key == key and package.python_version in (None, this):
            cache_use.mark_used(folder)
            return package
    return None


def _publish(cache: Path, made: Path, package: ConvertedPackage) -> None:
    """Put a finished package into the cache by one rename. Workers never do: one may outlive a killed run."""
    target = cache / "packages" / package.key
    target.parent.mkdir(exist_ok=True)
    (made / _RECORD).write_text(json.dumps(asdict(package)), encoding="utf-8")
    if target.exists():  # damaged, or for another patch version of Python
        shutil.rmtree(target)
    made.replace(target)


def _run(tasks: list[_Task], progress: Progress) -> Iterator[tuple[_Task, ConvertedPackage]]:
    """Make the packages in worker processes; yield each when it is finished, so that a killed run keeps it."""
    # the biggest first, so that no core is left with one at the end
    tasks = sorted(
        tasks, key=lambda task: task.wheel.stat().st_size if task.wheel and not task.program else 0, reverse=True
    )
    workers = min(len(tasks), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    before = set(multiprocessing.active_children())
    # processes, not threads: assemble_package holds the interpreter lock while it packs
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    with progress.task("Converting wheels to conda packages", len(tasks), "packages") as shown:
        try:
            calls = {pool.submit(_make, task): task for task in tasks}
            for done in as_completed(calls):
                package = done.result()
                yield calls[done], package
                shown.advance(1)
                shown.note(package.name)
        except BrokenProcessPool as error:
            raise SourceError(
                "a conversion process was killed", "look whether memory ran out, then run again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            raise
    pool.shutdown()


def _start_worker() -> None:
    os.umask(0o022)  # the modes of unpacked files go into the package
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers without a traceback each
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker of a killed run would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(task: _Task) -> ConvertedPackage:
    """Make one package in its work folder: `out` holds the archive."""
    stage = task.work / "stage"
    stage.mkdir(parents=True)
    if task.program and task.wheel and task.pin:
        package = _make_program(task, task.program, task.wheel, task.pin, stage)
    elif task.wheel and task.pin:
        package = _make_wheel(task, task.wheel, task.pin, stage)
    else:
        package = _make_python(task, stage)
    shutil.rmtree(stage)  # now, not at the end: the unpacked wheels would need another 8 GB
    return package


def _make_wheel(task: _Task, wheel: Path, pin: PipPin, stage: Path) -> ConvertedPackage:
    python, names = task.interpreter, load_names()
    if not is_sdist(pin) and (found := sha256_file(wheel)) != pin.sha256:
        raise VerificationError(
            f"{wheel}: expected sha256 {pin.sha256}, found {found}",
            "delete that file and run again: the cache is damaged",
        )
    if task.patches:
        wheel = patched_copy(wheel, task.patches, task.work)
    metadata = read_metadata(wheel)
    if metadata.name != pin.name or metadata.version != pin.version:
        raise VerificationError(
            f"{wheel.name}: says it is {metadata.name} {metadata.version}; expected {pin.name} {pin.version}",
            "lock again",
        )
    needs = shared_depends(wheel, metadata, names, python.environment)
    lay_out(wheel, python, metadata.name, stage, compiled=needs is None)
    site = stage / python.site_packages
    if needs is not None:  # noarch: whoever links it puts this into the site-packages of the prefix's Python
        task, site = replace(task, key=task.shared_key), site.rename(stage / "site-packages")
        shutil.rmtree(stage / "lib") if not any(p for p in (stage / "lib").rglob("*") if p.is_file()) else None
    licenses = sorted(
        path for path in site.glob("*.dist-info/**/*")
        if path.is_file() and re.match(r"(?i)(licen[cs]e|copying|notice|authors)", path.name)
    )  # fmt: skip
    tag = python.tag if needs is None else "py3"
    if task.patches:
        tag += "_p" + _key(*(sha256_file(patch) for patch in task.patches))[:7]
    return _pack(
        task, stage, names.to_conda(metadata.name), metadata.version, build_string(metadata, tag),
        depends(metadata, names, python.environment, python.minor) if needs is None else needs,
        python.environment["python_full_version"] if needs is None and metadata.exact_python else None,
        summary=metadata.summary or None, license=metadata.license or None, homepage=metadata.homepage or None,
        license_files=licenses, noarch=None if needs is None else "python",
    )  # fmt: skip


def _make_program(task: _Task, program: Program, wheel: Path, pin: PipPin, stage: Path) -> ConvertedPackage:
    python = task.interpreter
    with zipfile.ZipFile(wheel) as archive:
        inside = next((n for n in archive.namelist() if fnmatch.fnmatch(n, program.file) and not n.endswith("/")), None)
        inside = inside if inside and not inside.endswith((".py", ".md", ".txt")) else None
        if inside is None:
            raise VerificationError(f"{wheel.name}: holds no {program.file}", "lock a version that ships it")
        binary = task.work / program.command
        with archive.open(inside) as source, open(binary, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    binary.chmod(0o755)
    child = subprocess.run([str(binary), "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(rf"{program.command} version n?(\d+(?:\.\d+)*)", child.stdout)
    binary.unlink()
    if child.returncode != 0 or not version:
        raise VerificationError(
            f"{wheel.name}: {inside} doesn't run here: {(child.stderr or child.stdout).strip()[:200]}",
            "this machine's libc or processor may be too old for that wheel",
        )
    (stage / "bin").mkdir()
    (stage / "bin" / program.command).symlink_to(f"../{python.site_packages}/{inside}")
    return _pack(
        task, stage, program.conda, version[1], f"{python.tag}_0",
        sorted([f"python {python.minor}.*", f"{load_names().to_conda(program.pypi)} =={pin.version}"]),
        summary=f"The {program.command} program that {program.pypi} {pin.version} ships, by name in bin/",
    )  # fmt: skip


def _make_python(task: _Task, stage: Path) -> ConvertedPackage:
    python = task.interpreter
    lay_out_python(python, stage)
    return _pack(
        task, stage, "python", python.version, BUILD, [],
        summary=f"This machine's Python {python.version} at {python.base}, as a virtual environment lays it out",
        license="Python-2.0",
    )  # fmt: skip


def _pack(
    task: _Task,
    stage: Path,
    name: str,
    version: str,
    build: str,
    needs: list[str],
    python_version: str | None = None,
    **about: Any,
) -> ConvertedPackage:
    """Pack `stage`; `about` is what the package says of itself, as the packer takes it, the rest as in the result."""
    from rattler_build import RattlerBuildError, assemble_package, collect_files

    out = task.work / "out"
    try:
        made = assemble_package(
            name, version, task.interpreter.platform, build, out, depends=needs,
            files=collect_files(stage, include_hidden=True),  # files_dir= leaves out hidden files
            compression_level=1, compression_threads=1, timestamp=_STAMP, detect_prefix=False, **about,
        )  # fmt: skip
    except RattlerBuildError as error:
        if any(mark in str(error) for mark in diskspace.MARKS):
            raise diskspace.full(out, f"the package {name}") from error
        raise VerificationError(
            f"{name} {version}: can't be packed: {error}", "report this with the wheel's name"
        ) from error
    archive = Path(made.path)
    paths = tuple(sorted(p.relative_to(stage).as_posix() for p in stage.rglob("*") if p.is_symlink() or p.is_file()))
    patches = tuple(patch.name for patch in task.patches)
    digest, size = sha256_file(archive), archive.stat().st_size
    return ConvertedPackage(task.key, name, version, build, archive.name, digest, size, paths, python_version, patches)

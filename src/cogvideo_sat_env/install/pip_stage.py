"""The pip pins: fetched by hash from the site's configured index, built where need be, laid out file by file.

The prefix's own pip asks the index (its configuration, credentials and proxies are the user's) and its own setuptools
builds what comes as source. PyPI's `installer` lays out the wheels, and never over a file that is there already.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InstallerError
from installer.records import RecordEntry
from installer.sources import WheelFile
from installer.utils import Scheme, parse_metadata_file
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.cache_layers import has_file
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import MissingToolError, PrefixError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.hashing import describe, sha256_file
from cogvideo_sat_env.base.progress import Progress, Silent
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.base.wheel_patch import PatchError, patch_wheel
from cogvideo_sat_env.fetch.pip_errors import last_words, pip_error
from cogvideo_sat_env.fetch.wanted import INDEX, Wanted, artefact_path
from cogvideo_sat_env.install import activation, own_files
from cogvideo_sat_env.install.bytecode import compile_files
from cogvideo_sat_env.install.prefix_python import PrefixPython

INSTALLER = b"satenv\n"
_QUIET = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")


def fetch_pins(
    python: PrefixPython, pins: Sequence[PipPin], cache: Path, progress: Progress, find_links: Sequence[str] = ()
) -> dict[str, Path]:
    """Bring the file of every pin into `cache`, its SHA-256 proven, and return the paths by SHA-256.

    `find_links` are tried in order: folders or addresses of wheelhouses, and INDEX for the index; without any, the
    index.
    Raises SourceError (the index lacks a file or can't be reached), VerificationError (wrong bytes).
    """
    paths = {pin.sha256: artefact_path(cache, pin.sha256, pin.file_name) for pin in pins}
    missing = [pin for pin in pins if not has_file(cache, paths[pin.sha256], pin.sha256, progress)]
    if missing:
        with diskspace.watch(cache, "the pip packages"):
            cache.mkdir(parents=True, exist_ok=True)
            with (
                scratch_folder("pip-", cache) as scratch,
                progress.task("Fetching the pip packages", len(missing), "packages") as task,
            ):
                for pin in missing:
                    task.note(pin.name)
                    _fetch(python, pin, paths[pin.sha256], find_links or [INDEX], scratch, progress)
                    task.advance(1)
    return paths


def _fetch(
    python: PrefixPython, pin: PipPin, path: Path, places: Sequence[str], scratch: Path, progress: Progress
) -> None:
    from cogvideo_sat_env.fetch.download import combined  # the HTTP client loads slowly
    from cogvideo_sat_env.fetch.pool import fetch_files

    failures: list[SatenvError] = []
    for place in places:
        try:
            if place == INDEX:
                _download(python, pin, scratch)
                _keep(pin, scratch, path)
            else:
                house = Address(place if "://" in place else Path(place).absolute().as_uri())
                wanted = Wanted(pin.file_name, path, pin.sha256, (house / quote(pin.file_name),), pin.size)
                fetch_files([wanted], title="", what="the pip packages", progress=Silent())
            return
        except (SourceError, VerificationError) as error:
            failures.append(error)
            if len(places) > len(failures):
                progress.say(f"{error.message}; trying the next source")
    raise combined(pin.file_name, failures)


def _download(python: PrefixPython, pin: PipPin, folder: Path) -> None:
    requirements = folder / "pins.txt"
    requirements.write_text(f"{pin.requirement()}\n", encoding="utf-8")
    # --no-cache-dir: pip could hand out a wheel that it once built in another environment
    child = python.run(
        # -vv: only then pip reports why an index could not be asked
        ["-m", "pip", "download", "-vv", *_QUIET, "--no-cache-dir", "--no-deps", "--require-hashes",
         "--no-build-isolation", "-d", str(folder), "-r", str(requirements)]
    )  # fmt: skip
    if child.returncode == 0:
        return
    output = child.stdout + child.stderr
    error = pip_error(output, f"{pin.name}=={pin.version} ({pin.file_name})")
    if isinstance(error, MissingToolError):
        raise PrefixError(
            f"the environment's Python has no pip, but {pin.name} comes from the package index",
            f"add pip to environment.yml and make the lock again: {satenv('lock')}",
        )
    raise error or SatenvError(
        f"pip can't provide {pin.name}=={pin.version}: {last_words(output)}",
        "see pip's own documentation of that message; pip's configuration is shown by `pip config list`",
    )


def _keep(pin: PipPin, folder: Path, target: Path) -> None:
    name = canonicalize_name(pin.name)
    files = [path for path in sorted(folder.iterdir()) if path.name != "pins.txt"]
    files.sort(key=lambda path: path.name != pin.file_name)
    match = next((path for path in files if sha256_file(path) == pin.sha256), None)
    if match is None:
        found = ", ".join(p.name for p in files if canonicalize_name(p.name).startswith(name)) or "nothing"
        raise VerificationError(
            f"{pin.file_name}: expected SHA-256 {pin.sha256}; the package index gave {found}", "make the lock again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    match.replace(target)


def build_wheels(
    python: PrefixPython, pins: Sequence[PipPin], files: Mapping[str, Path], folder: Path, progress: Progress
) -> dict[str, Path]:
    """Return a wheel for every pin by SHA-256 of the pin: its own file, or one built in `folder` from its source.

    Builds use the prefix's own Python, setuptools and compiler, without isolation and without the index.
    Raises SatenvError with the build's last words.
    """
    wheels = {}
    for pin in pins:
        source = files[pin.sha256]
        if source.suffix == ".whl":
            wheels[pin.sha256] = source
            continue
        out = folder / pin.sha256
        with progress.task(f"Building {pin.name} {pin.version} from source", None, "packages"):
            child = python.run(
                ["-m", "pip", "wheel", *_QUIET, "--no-cache-dir", "--no-deps", "--no-index", "--no-build-isolation",
                 "-w", str(out), str(source)],
                cwd=folder,
            )  # fmt: skip
        built = sorted(out.glob("*.whl")) if out.is_dir() else []
        if child.returncode != 0 or len(built) != 1:
            raise SatenvError(
                f"{source.name} can't be built: {last_words(child.stdout + child.stderr)}",
                "what the build needs must be in environment.yml; its full output: "
                f"{python.executable.name} -m pip wheel --no-build-isolation --no-deps {source}",
            )
        wheels[pin.sha256] = built[0]
    return wheels


def patch(
    pins: Sequence[PipPin], wheels: Mapping[str, Path], patches: Mapping[str, Sequence[Path]], folder: Path
) -> dict[str, Path]:
    """Return copies in `folder` of the wheels that have `patches` (by name of the pin), with them applied.

    Raises VerificationError for a patch that doesn't fit.
    """
    return {
        pin.sha256: patched_copy(wheels[pin.sha256], patches[pin.name], folder) for pin in pins if pin.name in patches
    }


def patched_copy(wheel: Path, patches: Sequence[Path], folder: Path) -> Path:
    """Return a copy of `wheel` in `folder` with `patches` in it. Raises VerificationError for what does not fit."""
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(wheel, folder))
    try:
        patch_wheel(copy, patches)
    except PatchError as error:
        raise VerificationError(
            str(error), "make the patch again for the version in the lock, or lock the version that it is for"
        ) from error
    return copy


def lay_out(
    python: PrefixPython, pins: Sequence[PipPin], wheels: Mapping[str, Path], prefix: Path, progress: Progress
) -> dict[str, dict[str, object]]:
    """Lay out the wheels into the staged prefix of `python`, with scripts that start `prefix`/bin/python.

    Return size and SHA-256 of each file that was made, by its path in the prefix.
    Raises PrefixError when a wheel would overwrite a file (naming both owners), VerificationError for a wheel
    that is broken or claims a file of this program's own.
    """
    root = python.root
    owners: dict[str, str] = {}
    scripts = activation.load().scripts
    with progress.task("Laying out the pip packages", len(pins), "packages") as task:
        for pin in pins:
            task.note(pin.name)
            written = _lay_out_one(python, pin, wheels[pin.sha256], prefix, owners, scripts)
            owners |= dict.fromkeys(written, f"{pin.name} {pin.version} (pip)")
            task.advance(1)
    compiled = compile_files(python, [name for name in owners if name.endswith(".py")], prefix, progress)
    names = sorted({*owners, *compiled.values()})
    return {name: describe(root / name) for name in names}


@dataclass
class _Destination(SchemeDictionaryDestination):
    """Writes below the prefix only, never over anything, and remembers what it wrote (relative to the prefix).

    What `label` ships in place of a file that this program makes, its activation `scripts` among them, is refused.
    """

    root: Path = Path()
    label: str = ""
    scripts: Mapping[str, bytes] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    def write_to_fs(self, scheme: Scheme, path: str, stream: BinaryIO, is_executable: bool) -> RecordEntry:
        target = self._path_with_destdir(scheme, path)
        root = self.root
        place, real_root = Path(os.path.realpath(target.parent)), os.path.realpath(root)
        if not place.is_relative_to(real_root):
            raise ValueError(f"{path} leads out of the prefix")
        own_files.refuse_claims(self.label, [(os.path.relpath(place / target.name, real_root), {})], self.scripts)
        if os.path.lexists(target):  # `exists` would follow a dangling link of a conda package and write through it
            raise FileExistsError(os.path.relpath(target, root))
        entry = super().write_to_fs(scheme, path, stream, is_executable)
        self.written.append(os.path.relpath(target, root))
        return entry


def _lay_out_one(
    python: PrefixPython, pin: PipPin, wheel: Path, prefix: Path, owners: Mapping[str, str],
    scripts: Mapping[str, bytes],
) -> list[str]:  # fmt: skip
    root = python.root
    site = {name: str(root / python.paths[name]) for name in ("purelib", "platlib")}
    scheme = site | {
        "scripts": str(root / "bin"),
        "data": str(root),
        "headers": str(root / "include" / f"python{python.version}" / pin.name),
    }
    starter = str(prefix / "bin" / "python")
    destination = _Destination(scheme, starter, "posix", root=root, label=pin.file_name, scripts=scripts)
    try:
        with WheelFile.open(wheel) as source:
            metadata = parse_metadata_file(source.read_dist_info("METADATA"))
            _require_same(pin, str(metadata["Name"]), str(metadata["Version"]), wheel)
            install(source, destination, {"INSTALLER": INSTALLER})
    except FileExistsError as error:
        name = str(error)
        raise PrefixError(
            f"{pin.name} {pin.version} (pip) would overwrite {name}, which belongs to "
            f"{owners.get(name) or _conda_owner(root, name)}",
            "take the package from one of the two only: correct environment.yml and make the lock again",
        ) from error
    except (InstallerError, ValueError, KeyError, shutil.Error) as error:
        raise VerificationError(f"{wheel}: is no proper wheel: {error}", "lock another version of it") from error
    return destination.written


def _require_same(pin: PipPin, name: str, version: str, wheel: Path) -> None:
    try:
        same = canonicalize_name(name) == canonicalize_name(pin.name) and Version(version) == Version(pin.version)
    except InvalidVersion:
        same = version == pin.version
    if not same:
        raise VerificationError(
            f"{wheel}: expected {pin.name} {pin.version}, found {name} {version}", "make the lock again"
        )


def _conda_owner(root: Path, name: str) -> str:
    for path in sorted((root / "conda-meta").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if name in record["files"]:
            return f"{record['name']} {record['version']} (conda)"
    return "the environment itself"

"""`scripts/gpu-proof pack`: one file with what a GPU machine without network lacks beside its own torch."""

from __future__ import annotations

import argparse
import gzip
import io
import lzma
import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError, SatenvError
from cogvideo_sat_env.base.paths import cache_dir, project_root
from cogvideo_sat_env.base.progress import Progress, choose, human_bytes
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.base.wheel_patch import patch_wheel, patches_of
from cogvideo_sat_env.source.wheels import fetch as files
from cogvideo_sat_env.source.wheels.interpreter import probe
from cogvideo_sat_env.source.wheels.lockfile import WheelLock, is_sdist, read_wheel_lock
from cogvideo_sat_env.source.wheels.metadata import markers_of, read_metadata, requirements
from cogvideo_sat_env.source.wheels.pip import download

NAME = "gpu-proof"
LIMIT = 60_000_000  # bytes of the whole file: what a mail or a ticket of a site still takes
ROOTS = (
    "swissarmytransformer", "deepspeed", "decord", "webdataset", "diffusers", "peft", "pillow", "pyyaml",
    "setuptools",  # torch's extensions are built with it, and torch requires it only from Python 3.12 on
)  # fmt: skip
# Belongs to the machine: it is torch, or is as big, or has to fit its torch.
MACHINE = ("torch", "torchvision", "triton", "numpy")
# SAT imports both on its way to training, and the proof uses neither; with all that they need they are 100 MB.
STAND_INS = ("datasets", "wandb")
# Declared by what is packed, and not imported on the way to any check of the proof.
UNUSED = ("boto3", "cpm-kernels", "hf-xet", "sentencepiece", "typer")
_SOURCE = ("base", "spec", "doctor", "data")  # folders of the program that the doctor needs


def pack(target: Path, project: Path, progress: Progress) -> int:
    """Write the file `target`, the same bytes for the same locks and source; return its size in bytes.

    Raises InputError for a target that can't be, SourceError and VerificationError from the package index, SatenvError
    when the file is bigger than LIMIT.
    """
    if not target.name.endswith(".tar.gz"):
        raise InputError(f"{target}: expected a name that ends with .tar.gz", "name the file gpu-proof.tar.gz")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder", "make it, or name a file in another one")
    locks = [read_wheel_lock(path) for path in sorted((project / "locks").glob("wheels-linux-64-py*.txt"))]
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        work = Path(name)
        with FileLock(cache / "wheels.lock"):
            wheels = {lock.python: _wheels(lock, cache, work, progress) for lock in locks}
            payload = _payload(_groups(wheels), project, work, progress)
        partial = work / target.name
        _write(partial, project, payload)
        size = partial.stat().st_size
        if size > LIMIT:
            raise SatenvError(
                f"{target}: {human_bytes(size)}; expected at most {human_bytes(LIMIT)}",
                f"leave more out: UNUSED and STAND_INS in {Path(__file__).name}",
            )
        partial.replace(target)
    progress.say(f"{target}: {human_bytes(size)}, for Python {', '.join(sorted(wheels))} on linux x86-64")
    return size


def _wheels(lock: WheelLock, cache: Path, work: Path, progress: Progress) -> dict[str, Path]:
    """Return the wheels that the proof needs with this lock's Python, by name: the closure of ROOTS."""
    pins = {pin.name: pin for pin in lock.pins}
    found: dict[str, Path] = {}
    wanted = [pins[name] for name in ROOTS]
    while wanted:
        found |= _fetch(lock, wanted, cache, work, progress)
        needed = {name for pin in wanted for name in _requires(found[pin.name], lock.python)}
        wanted = [pins[name] for name in sorted(needed - set(found)) if name in pins]
    return found


def _fetch(lock: WheelLock, pins: Sequence[PipPin], cache: Path, work: Path, progress: Progress) -> dict[str, Path]:
    """Have the wheels of `pins` in the cache, those of another Python than this one's too."""
    sdists = [pin for pin in pins if is_sdist(pin)]
    found = {}
    if sdists:
        found = files.fetch(lock, sdists, interpreter=probe(Path(sys.executable)), cache=cache, progress=progress)
    wheels = [pin for pin in pins if not is_sdist(pin)]
    missing = files.missing(wheels, cache)
    if missing:
        platforms = sorted({tag for pin in wheels for tag in pin.file_name[: -len(".whl")].split("-")[-1].split(".")})
        with tempfile.TemporaryDirectory(dir=work) as name:
            folder = Path(name)
            named = [word for tag in platforms if tag != "any" for word in ("--platform", tag)]
            options = ["--only-binary", ":all:", "--python-version", lock.python, "--implementation", "cp"]
            options += named or ["--platform", "any"]
            download(Path(sys.executable), missing, folder, "can't download the wheels", *options)
            for pin in missing:
                files.keep(pin, folder, cache)
        progress.say(f"Downloaded {len(missing)} wheels for Python {lock.python}")
    return found | {pin.name: files.file_path(cache, pin) for pin in wheels}


def _requires(wheel: Path, python: str) -> Iterator[str]:
    """Yield the names that a wheel requires on a Linux machine, without those that the proof does without."""
    from packaging.utils import canonicalize_name

    for requirement in requirements(read_metadata(wheel).requires, markers_of(python, "linux-64")):
        name = canonicalize_name(requirement.split()[0])
        if name not in (*MACHINE, *STAND_INS, *UNUSED):
            yield name


def _groups(wheels: dict[str, dict[str, Path]]) -> dict[str, list[Path]]:
    """Return the wheels by the Pythons that they are for: "any", or tags as in "cp311-cp312"."""
    users: dict[Path, list[str]] = defaultdict(list)
    for python, found in sorted(wheels.items(), key=lambda item: tuple(map(int, item[0].split(".")))):
        for path in found.values():
            users[path].append(f"cp{python.replace('.', '')}")
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, tags in users.items():
        groups["any" if len(tags) == len(wheels) else "-".join(tags)].append(path)
    return {name: sorted(groups[name], key=lambda path: path.name) for name in sorted(groups)}


def _payload(groups: dict[str, list[Path]], project: Path, work: Path, progress: Progress) -> bytes:
    """Return the unpacked wheels, SAT and DeepSpeed patched, as one solid tar.xz: what they share is there once."""
    members: list[tuple[str, bytes, int]] = []
    for group, wheels in groups.items():
        for wheel in wheels:
            patches = patches_of(project / "recipe", wheel.name.split("-")[0])
            if patches:
                wheel = Path(shutil.copy(wheel, work / wheel.name))
                patch_wheel(wheel, patches)
            with zipfile.ZipFile(wheel) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        mode = 0o755 if "/scripts/" in info.filename or info.external_attr >> 16 & 0o100 else 0o644
                        members.append((f"{group}/{_place(info.filename)}", archive.read(info), mode))
    # the kinds of a file together, the same file of several Pythons side by side: half the size
    members.sort(key=lambda item: (Path(item[0]).suffix, item[0].partition("/")[2], item[0]))
    count = sum(map(len, groups.values()))
    with progress.task(f"Compressing {count} wheels", None, "bytes"):
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 3, "dict_size": 2**26}]
        return lzma.compress(_tar(members), format=lzma.FORMAT_XZ, filters=filters)


def _place(name: str) -> str:
    """Return where a member of a wheel goes: programs into bin/, what says that it is a library to the others."""
    head, _, rest = name.partition(".data/")
    if not rest:
        return name
    kind, _, path = rest.partition("/")
    return f"bin/{path}" if kind == "scripts" else path if kind in ("purelib", "platlib") else f"{head}.data/{rest}"


def _tar(members: Sequence[tuple[str, bytes, int]]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, mode in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), mode, files.EPOCH
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def _write(target: Path, project: Path, payload: bytes) -> None:
    members = [(f"{NAME}/payload.tar.xz", payload, 0o644)]
    places = {
        "scripts/gpu-proof-run": "run",
        "scripts/gpu-proof-start.py": "start.py",
        "LICENSE": "LICENSE",
        "docs/doctor.md": "doctor.md",
    }
    for source, name in places.items():
        path = project / source
        members.append((f"{NAME}/{name}", path.read_bytes(), 0o755 if name == "run" else 0o644))
    top = Path(__file__).parents[1]
    for folder in (*(top / name for name in _SOURCE), project / "tests" / "gpu"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                under = path.relative_to(top.parents[1] if folder.is_relative_to(top) else project)
                members.append((f"{NAME}/{under.as_posix()}", path.read_bytes(), 0o644))
    for path in top.glob("*.py"):
        members.append((f"{NAME}/src/{top.name}/{path.name}", path.read_bytes(), 0o644))
    members.sort(key=lambda item: (item[0].endswith(".xz"), item[0]))
    with target.open("wb") as sink, gzip.GzipFile("", "wb", 6, sink, mtime=0) as stream:
        stream.write(_tar(members))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `scripts/gpu-proof`; returns the exit code (errors.EXIT_CODES)."""
    return run("gpu-proof", lambda: _command(arguments))


def _command(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu-proof", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packs = commands.add_parser("pack", help="write the file; needs the package index, no GPU")
    packs.add_argument("target", type=Path, metavar="OUT.tar.gz")
    packs.add_argument("-q", "--quiet", action="store_true", help="Say nothing.")
    parsed = parser.parse_args(arguments)
    if platform.system() != "Linux":
        raise InputError(f"{platform.system()}: expected Linux", "pack on a Linux machine: deepspeed is built there")
    pack(Path(parsed.target).expanduser().absolute(), project_root(), choose(quiet=parsed.quiet))
    return 0

"""Small real conda packages and an indexed channel made of them, for tests and benchmarks.

Packed with py-rattler-build's `assemble_package`; what that can't express (prefix placeholders, entry points) is
added to the package's own metadata afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import re
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import zstandard
from rattler.index import index_fs
from rattler_build import assemble_package, collect_files

from cogvideo_sat_env.base.artefacts import CondaArtefact, split_archive
from cogvideo_sat_env.base.paths import current_platform

PLACEHOLDER = "/opt/satenv_placehold" + "_placehold" * 22  # 241 bytes: conda-build's is 255
STAMP = datetime(2026, 1, 2, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Text:
    """A text file; `prefix` says that PLACEHOLDER in it becomes the prefix."""

    content: str
    executable: bool = False
    prefix: bool = False


@dataclass(frozen=True)
class Binary:
    """A binary file; `prefix` says that PLACEHOLDER in it becomes the prefix, padded with NUL."""

    content: bytes
    prefix: bool = False
    executable: bool = False


@dataclass(frozen=True)
class Link:
    """A symbolic link; the target is as written."""

    target: str


@dataclass(frozen=True)
class Spec:
    """What one generated package holds. `noarch` is None, "generic" or "python"."""

    name: str
    version: str = "1.0"
    build: str = "h0_0"
    files: Mapping[str, Text | Binary | Link] = field(default_factory=dict)
    depends: Sequence[str] = ()
    noarch: str | None = None
    entry_points: Sequence[str] = ()
    constrains: Sequence[str] = ()
    summary: str | None = None


def make_package(spec: Spec, channel: Path, subdir: str) -> Path:
    """Pack `spec` into `channel`/`subdir` (or noarch) and return the archive."""
    subdir = "noarch" if spec.noarch else subdir
    out = channel / subdir
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=channel) as scratch:
        root = Path(scratch)
        for name, entry in spec.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Link):
                path.symlink_to(entry.target)
            elif isinstance(entry, Binary):
                path.write_bytes(entry.content)
                path.chmod(0o755 if entry.executable else 0o644)
            else:
                path.write_text(entry.content, encoding="utf-8")
                path.chmod(0o755 if entry.executable else 0o644)
        return _assemble(spec, root, out, subdir)


def _assemble(spec: Spec, root: Path, out: Path, subdir: str) -> Path:
    number = re.search(r"_(\d+)$", spec.build)
    made = assemble_package(
        spec.name, spec.version, subdir, spec.build, out, build_number=int(number[1]) if number else 0,
        files=collect_files(root, include_hidden=True), depends=list(spec.depends),
        constrains=list(spec.constrains), summary=spec.summary, license="0BSD" if spec.summary else None,
        noarch=spec.noarch, compression_level=1, timestamp=STAMP,
    )  # fmt: skip
    placeholders = {
        name: "binary" if isinstance(entry, Binary) else "text"
        for name, entry in spec.files.items()
        if not isinstance(entry, Link) and entry.prefix
    }
    if placeholders or spec.entry_points:
        _edit_info(made.path, placeholders, spec.entry_points)
    return made.path


def _edit_info(archive: Path, placeholders: Mapping[str, str], entry_points: Sequence[str]) -> None:
    changes: dict[str, object] = {}
    if placeholders:
        paths = json.loads(_info(archive)["info/paths.json"])
        for entry in paths["paths"]:
            if entry["_path"] in placeholders:
                entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": placeholders[entry["_path"]]}
        changes["info/paths.json"] = paths
    if entry_points:
        link = {"noarch": {"type": "python", "entry_points": list(entry_points)}, "package_metadata_version": 1}
        changes["info/link.json"] = link
    edit_info(archive, changes)


def _info(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as members:
        name = next(name for name in members.namelist() if name.startswith("info-"))
        with zstandard.ZstdDecompressor().stream_reader(members.read(name)) as stream:
            tar = tarfile.open(fileobj=io.BytesIO(stream.read()))  # noqa: SIM115 - in memory
    return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def edit_info(archive: Path, changes: Mapping[str, object]) -> None:
    """Put `changes` (name in the package -> what becomes JSON) into the metadata of `archive`.

    A mapping is merged into the one that is there unless it is a list of paths.
    """
    files = _info(archive)
    for name, content in changes.items():
        old = json.loads(files.get(name, b"{}"))
        merged = old | content if isinstance(content, dict) and isinstance(old, dict) else content
        files[name] = json.dumps(merged).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), int(STAMP.timestamp())
            out.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(archive) as old_archive:
        members = {name: old_archive.read(name) for name in old_archive.namelist()}
    info = next(name for name in members if name.startswith("info-"))
    members[info] = zstandard.ZstdCompressor(level=1).compress(packed.getvalue())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as new:
        for name, content in members.items():
            new.writestr(zipfile.ZipInfo(name, STAMP.timetuple()[:6]), content)


def host_python_spec() -> tuple[str, str]:
    """Return version and `major.minor` of the running Python."""
    return ".".join(map(str, sys.version_info[:3])), f"{sys.version_info[0]}.{sys.version_info[1]}"


def make_host_python(channel: Path, wheels: Sequence[Path]) -> Path:
    """Pack a `python` package that is the running interpreter (as a venv has it) with `wheels` laid out in it."""
    version, short = host_python_spec()
    subdir = current_platform()
    out = channel / subdir
    out.mkdir(parents=True, exist_ok=True)
    interpreter = Path(os.path.realpath(sys.executable))
    site = f"lib/python{short}/site-packages"
    with tempfile.TemporaryDirectory(dir=channel) as scratch:
        root = Path(scratch)
        (root / "bin").mkdir()
        for name in ("python", "python3", f"python{short}"):
            (root / "bin" / name).symlink_to(interpreter)
        (root / "pyvenv.cfg").write_text(
            f"home = {interpreter.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
        )
        (root / site).mkdir(parents=True)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root / site)
        return _assemble(Spec("python", version, f"host_0_cp{short.replace('.', '')}"), root, out, subdir)


def index(channel: Path) -> None:
    """Write the channel's repodata.json and repodata.json.zst."""
    for subdir in ("noarch", current_platform()):
        (channel / subdir).mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel, write_zst=True, write_shards=False))


def artefact(archive: Path, channel_url: str) -> CondaArtefact:
    """Return the lock entry of `archive` (in CHANNEL/SUBDIR) as if it came from `channel_url`."""
    content = archive.read_bytes()
    name, version, build = split_archive(archive.name)
    subdir = archive.parent.name
    return CondaArtefact(
        name, version, build, subdir, channel_url, archive.name,
        f"{channel_url}/{subdir}/{archive.name}",
        hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest(), len(content),
    )  # fmt: skip


def artefacts(channel: Path, channel_url: str) -> list[CondaArtefact]:
    """Return the lock entries of every archive of the channel, sorted by name."""
    archives = list(channel.glob("*/*.conda"))
    return sorted((artefact(path, channel_url) for path in archives), key=lambda a: (a.name, a.version))


def sample_specs() -> list[Spec]:
    """Return one package of each kind that matters to linking; `python` is made apart."""
    return [
        Spec(
            "prefixed",
            files={
                "bin/prefixed": Text(f"#!/bin/sh\necho {PLACEHOLDER}/share\n", executable=True, prefix=True),
                "lib/libprefixed.so": Binary(
                    b"\x7fELF\x00" + PLACEHOLDER.encode() + b"/share\x00" + b"tail" * 8, prefix=True
                ),
                "share/prefixed/plain.txt": Text("plain\n"),
            },
        ),
        Spec(
            "linked",
            files={
                "lib/liblinked.so.1": Binary(b"\x7fELF linked"),
                "lib/liblinked.so": Link("liblinked.so.1"),
                "share/linked/dir/file": Text("x"),
            },
        ),
        Spec("x264", "1!164.3095", "h166bdaf_2", {"lib/libx264.so.164": Binary(b"\x7fELF x264")}),
        Spec(
            "purepy",
            "2.0",
            "pyhd8ed1ab_0",
            {
                "site-packages/purepy/__init__.py": Text("def main():\n    print('purepy main')\n"),
                "site-packages/purepy/deep/__init__.py": Text("VALUE = 1\n"),
                "site-packages/purepy-2.0.dist-info/METADATA": Text(
                    "Metadata-Version: 2.1\nName: purepy\nVersion: 2.0\n"
                ),
                "python-scripts/purepy-script": Text(
                    f"#!{PLACEHOLDER}/bin/python\nprint('script')\n", executable=True, prefix=True
                ),
            },
            depends=["python >=3"],
            noarch="python",
            entry_points=["purepy = purepy:main"],
        ),
        Spec("data", "3", "0", {"share/data/a.txt": Text("a\n")}, noarch="generic"),
    ]


def make_sample_channel(channel: Path, python_wheels: Sequence[Path], extra: Sequence[Spec] = ()) -> None:
    """Make the sample packages, `extra` ones and the host's Python in `channel`, and index it."""
    for spec in [*sample_specs(), *extra]:
        make_package(spec, channel, current_platform())
    make_host_python(channel, python_wheels)
    index(channel)


def site_packages(prefix: Path) -> Path:
    """Return the site-packages folder of a prefix made with the host's Python."""
    return prefix / "lib" / f"python{host_python_spec()[1]}" / "site-packages"


def make_many(channel: Path, count: int, files: int, size: int, dense: bool = False) -> None:
    """Make `count` packages with `files` files of about `size` bytes on average, in conda-forge's proportions.

    Every second one is noarch Python, but those hold only a tenth of the files. With `dense` the other files compress
    as badly as libraries do; without, to next to nothing.
    """
    for number in range(count):
        body = hashlib.sha256(str(number).encode()).hexdigest()
        text = (f"# {body}\nVALUE = '{body}'\n" * (1 + size // 150))[:size].rpartition("\n")[0] + "\n"
        if number % 2:
            content = {f"site-packages/many{number}/m{i}.py": Text(text + f"N = {i}\n") for i in range(files // 5)}
            make_package(Spec(f"many{number}", files=content, noarch="python", build="py_0"), channel, "noarch")
        else:
            noise = random.Random(number)
            content = {
                f"share/many{number}/d{i % 10}/f{i}": Binary(noise.randbytes(size * 2 // 5) + bytes(size * 3 // 5))
                if dense
                else Text(text + f"N = {i}\n")
                for i in range(files * 9 // 5)
            }
            content[f"bin/many{number}"] = Text(f"#!/bin/sh\n: {PLACEHOLDER}\n", executable=True, prefix=True)
            make_package(Spec(f"many{number}", files=content), channel, current_platform())


def pip_wheels(folder: Path) -> list[Path]:
    """Return wheels of pip and setuptools for the generated `python` package, taken from the running interpreter.

    They are rebuilt from the installed distributions, so that no index is asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack"):
        source = _installed(name)
        if source is None:
            continue
        target = folder / f"{name}.whl"
        with zipfile.ZipFile(target, "w") as archive:
            for root in [source, *source.parent.glob(f"{name}-*.dist-info")]:
                for path in sorted(root.rglob("*")):
                    if path.is_file() and "__pycache__" not in path.parts:
                        archive.write(path, path.relative_to(source.parent))
        found.append(target)
    return found


def _installed(name: str) -> Path | None:
    for folder in dict.fromkeys([sysconfig.get_path("purelib"), *sys.path]):
        path = Path(folder) / name
        if (path / "__init__.py").is_file():
            return path
    return None

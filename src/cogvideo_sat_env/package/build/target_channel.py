"""The channel that is built into: complete at every moment; packages first, the index last, each by one rename."""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import zstandard

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.files import link_or_copy, replacing, write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.locked import locked
from cogvideo_sat_env.package.build.outputs import Output
from cogvideo_sat_env.package.build.repack import LEVEL
from cogvideo_sat_env.source.local_channel import index_channel

RECORD = "built.json"
ROOM = 100_000_000  # bytes; a Python and the largest package, unpacked
INDEX = ("repodata.json.zst", "repodata.json")  # clients look at them in this order


@dataclass(frozen=True)
class Made:
    """A finished package: what it was made from, what it is, and what was tested, in words (empty: nothing yet)."""

    inputs: str
    sha256: str
    size: int
    tests: str = ""


class Channel:
    """The folder `out`, and the hidden sibling in which the next state of it is prepared."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.staging = out.with_name(f".{out.name}.building")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other builds away from the folder. Raises PrefixError when it can't be used."""
        if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / "noarch").is_dir():
            raise PrefixError(f"{self.out}: not empty, and not a channel (no noarch/ in it)", "name another with --out")
        lock = self.out.with_name(f".{self.out.name}.lock")
        with locked(lock, self.out), diskspace.watch(self.out, "the channel"):
            self.staging.mkdir(parents=True, exist_ok=True)
            yield

    def forget(self, names: Container[str]) -> None:
        """Drop what an earlier run left unless it is in `names` (subdir/file): it was made from other inputs."""
        _write(self.staging, {name: item for name, item in _read(self.staging).items() if name in names})

    def work(self) -> Path:
        """Return an empty folder for one build. Raises PrefixError when there is no room for one."""
        folder = self.staging / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        diskspace.require(self.out, ROOM, "a build")  # the engine would only say that it couldn't make its environment
        return folder

    def find(self, output: Output, inputs: str) -> tuple[Path, Made] | None:
        """Return the package and its record if it was made from these inputs, here or by a run that didn't end."""
        for place in (self.staging, self.out):
            made = _read(place).get(f"{output.subdir}/{output.file_name}")
            path = place / output.subdir / output.file_name
            if made and made.inputs == inputs and path.is_file() and sha256_file(path) == made.sha256:
                return path, made
        return None

    def keep(self, output: Output, path: Path, inputs: str, tests: str = "") -> Made:
        """Have the finished package `path` in the staging folder, with its record."""
        target = self.staging / output.subdir / output.file_name
        target.parent.mkdir(exist_ok=True)
        if path != target:
            with replacing(target) as partial:
                link_or_copy(path, partial)
        made = Made(inputs, sha256_file(target), target.stat().st_size, tests)
        _write(self.staging, {**_read(self.staging), f"{output.subdir}/{output.file_name}": made})
        return made

    def index_staging(self) -> str:
        """Index what is finished so far; return its URL: the tests of later packages need earlier ones."""
        (self.staging / "noarch").mkdir(exist_ok=True)
        _index(self.staging)
        return self.staging.resolve().as_uri()

    def discard(self) -> None:
        """Throw the staging folder away: nothing was to be done."""
        shutil.rmtree(self.staging)

    def publish(self, platform: str) -> None:
        """Bring the staged packages into the channel. A failure leaves the channel as it was."""
        following = self.staging / "next"
        shutil.rmtree(following, ignore_errors=True)
        staged = _read(self.staging)
        subdirs = {"noarch", platform, *(p.name for p in self.out.glob("*") if p.is_dir())}
        for subdir in subdirs:
            (following / subdir).mkdir(parents=True)
            for place in (self.staging, self.out):
                for archive in sorted((place / subdir).glob("*.conda")) + sorted((place / subdir).glob("*.tar.bz2")):
                    target = following / subdir / archive.name
                    if not target.exists() and (place == self.out or f"{subdir}/{archive.name}" in staged):
                        link_or_copy(archive, target)
        _index(following)
        for subdir in subdirs:
            (self.out / subdir).mkdir(parents=True, exist_ok=True)
        for name in staged:
            (following / name).replace(self.out / name)
        for subdir in subdirs:
            for name in INDEX:
                (following / subdir / name).replace(self.out / subdir / name)
        _write(self.out, {**_read(self.out), **staged})
        shutil.rmtree(self.staging)


def _index(folder: Path) -> None:
    index_channel(folder, "delete that folder and run again")
    for plain in folder.glob("*/repodata.json"):
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(plain.read_bytes())
        plain.with_name("repodata.json.zst").write_bytes(packed)


def _read(place: Path) -> dict[str, Made]:
    try:
        content = json.loads((place / RECORD).read_text(encoding="utf-8"))
        return {name: Made(**item) for name, item in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: everything is made again
        return {}


def _write(place: Path, made: dict[str, Made]) -> None:
    text = json.dumps({name: asdict(made[name]) for name in sorted(made)}, indent=2) + "\n"
    write_atomically(place / RECORD, text.encode())

"""Members on their way out of a bundle: packages into the package cache, pip files into the file cache."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.errors import SatenvError, VerificationError
from cogvideo_sat_env.bundle.verify import Sink
from cogvideo_sat_env.fetch.archives import artefact_path
from cogvideo_sat_env.install import package_cache

_WORKER = Path(package_cache.__file__).with_name("unpack_worker.py")


@contextmanager
def scratch_folder(cache: Path) -> Iterator[Path]:
    """Make a folder for archives on their way; remove those that killed runs have left."""
    folder = cache / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("unpack-*"):
        with _locked(left) as mine:
            if mine:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="unpack-") as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder for as long as this process lives; yield whether that was possible."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # another run has just removed it
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except OSError:  # in use, or a file system without locks
            mine = False
        yield mine
    finally:
        os.close(descriptor)


class Workers:
    """Extraction in processes of their own: rattler holds the interpreter lock while it extracts."""

    def __init__(self, count: int, packages: Path) -> None:
        self._packages = packages
        self._idle: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        self._all: list[subprocess.Popen[str]] = []
        for _ in range(count):
            child = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                encoding="utf-8",
            )  # fmt: skip
            self._all.append(child)
            self._idle.put(child)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._all:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()

    def run(self, artefact: CondaArtefact, archive: Path) -> None:
        """Extract the proven `archive`. Raises VerificationError, PrefixError (no space), SatenvError."""
        facts = {name: getattr(artefact, name) for name in ("name", "version", "build", "sha256")}
        wanted = {"key": package_cache.key(artefact), **facts}
        child = self._idle.get()
        try:
            child.stdin.write(
                json.dumps({"archive": str(archive), "wanted": wanted, "packages": str(self._packages)}) + "\n"
            )
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = ""
        finally:
            self._idle.put(child)
        answer = json.loads(line) if line else {"event": "failed", "text": "the extracting process has ended"}
        if answer["event"] == "refused":
            raise VerificationError(answer["text"], answer.get("remedy"))
        if answer["event"] != "unpacked":
            text = str(answer["text"])
            if any(mark in text for mark in diskspace.MARKS):
                raise diskspace.full(self._packages, "the extracted packages")
            raise SatenvError(
                f"{artefact.file_name} can't be extracted: {text}",
                "run it again; if it repeats, check memory limits (ulimit, cgroup) and report it",
            )


class Extract(Sink):
    """A package on its way out of the bundle: an archive for a moment, then extracted, then gone."""

    def __init__(self, artefact: CondaArtefact, scratch: Path, workers: Workers) -> None:
        self._artefact, self._workers = artefact, workers
        # the name decides how it is read, and two channels may use the same one
        folder = scratch / artefact.sha256[:16]
        folder.mkdir()
        self._path = folder / artefact.file_name
        self._stream = open(self._path, "wb", buffering=0)  # noqa: SIM115 - closed below

    def write(self, piece: bytes) -> None:
        """Take a piece."""
        view = memoryview(piece)
        while view:
            view = view[self._stream.write(view) :]

    def done(self) -> None:
        """Extract the proven archive."""
        self._stream.close()
        self._workers.run(self._artefact, self._path)

    def close(self) -> None:
        """Remove the archive, or what there is of it."""
        self._stream.close()
        shutil.rmtree(self._path.parent, ignore_errors=True)


class Keep(Sink):
    """A pip file: small, and kept where the pip stage looks for it."""

    def __init__(self, pin: PipPin, cache: Path) -> None:
        self._path = artefact_path(cache, pin.sha256, pin.file_name)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._side = self._path.with_name(f"{pin.file_name}.{os.getpid()}.partial")
        self._stream = open(self._side, "wb")  # noqa: SIM115 - closed below

    def write(self, piece: bytes) -> None:
        """Take a piece."""
        self._stream.write(piece)

    def done(self) -> None:
        """Give the proven file its name."""
        self._stream.close()
        os.replace(self._side, self._path)

    def close(self) -> None:
        """Remove it unless it is whole."""
        self._stream.close()
        self._side.unlink(missing_ok=True)

"""A pool of processes that extract packages into the package cache: rattler holds the interpreter lock meanwhile."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import PrefixError, SatenvError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.package_cache import key
from cogvideo_sat_env.install.workers import REMEDY, FailedError, ask, reap, start_process

PROCESSES = 4  # that extract at once, at most: more than a disk can take is of no use
_SHARE = 2_000_000  # bytes of archives for which one more is started: less is extracted before it would be there


class Extractor:
    """Extracts into the folder `packages` of a cache. Processes start when they are needed and end with the block.

    With `compare` what is there already is compared with its archive, byte by byte, instead of with its manifest.
    All methods but `finish` may be called from any thread.
    """

    def __init__(self, packages: Path, compare: bool = False) -> None:
        self.count = min(PROCESSES, os.cpu_count() or 1)
        self._packages, self._compare = packages, compare
        self._idle: queue.LifoQueue[subprocess.Popen[str] | None] = queue.LifoQueue()
        self._places, self._bytes = 0, 0  # how many may be started; of the archives so far
        self._children: list[subprocess.Popen[str]] = []
        self._threads = ThreadPoolExecutor(self.count)
        self._added: list[Future[None]] = []
        self._guard = threading.Lock()
        self._closed = False

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:  # no process is started after this
            self._closed = True
            for child in self._children:
                child.kill()
        self._threads.shutdown(cancel_futures=True)
        reap(self._children)

    def add(self, artefact: CondaArtefact, archive: Path) -> None:
        """Extract the verified `archive` as soon as a process is free; `finish` reports how it went."""
        self._added.append(self._threads.submit(self.run, artefact, archive))

    def finish(self, progress: Progress) -> None:
        """Wait until everything is extracted that was added. Raises the first error, as `run` does."""
        with progress.task("Extracting", len(self._added), "packages") as task:
            try:
                for future in as_completed(self._added):
                    future.result()
                    task.advance(1)
            except SatenvError:  # those under way end, so that nothing half-extracted stays
                wait([future for future in self._added if not future.cancel()])
                raise

    def run(self, artefact: CondaArtefact, archive: Path) -> None:
        """Extract the verified `archive`. Raises VerificationError, PrefixError (no space, read-only), SatenvError."""
        job = {
            "archive": str(archive), "packages": str(self._packages), "key": key(artefact), "sha256": artefact.sha256,
            "named": [artefact.name, artefact.version, artefact.build], "compare": self._compare,
        }  # fmt: skip
        self._make_places(archive.stat().st_size)
        child = self._idle.get()
        try:
            child = child or self._start()
            ask(child, "unpack", [job])
        except OSError as error:
            raise self._error(f"{type(error).__name__}: {error}", artefact) from error
        except FailedError as error:
            raise self._error(str(error), artefact) from error
        finally:
            self._idle.put(child)

    def _make_places(self, size: int) -> None:
        with self._guard:
            self._bytes += size
            while self._places < min(self.count, 1 + self._bytes // _SHARE):
                self._places += 1
                self._idle.put(None)

    def _start(self) -> subprocess.Popen[str]:
        with self._guard:
            if self._closed:
                raise SatenvError("the extraction was interrupted", None)
            self._children.append(start_process("unpack"))
            return self._children[-1]

    def _error(self, text: str, artefact: CondaArtefact) -> SatenvError:
        if any(mark in text for mark in diskspace.MARKS):
            return diskspace.full(self._packages.parent, "the extracted packages")
        if "Permission denied" in text or "Read-only file system" in text:
            return PrefixError(f"{self._packages}: not writable: {text}", "choose another cache with SATENV_CACHE")
        return SatenvError(f"{artefact.file_name} can't be extracted: {text}", REMEDY)

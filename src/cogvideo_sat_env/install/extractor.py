"""A pool of processes that extract packages into the package cache: rattler holds the interpreter lock meanwhile."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.package_cache import key
from cogvideo_sat_env.install.workers import reap

PROCESSES = 4  # that extract at once, at most: more than a disk can take is of no use
_SHARE = 2_000_000  # bytes of archives for which one more is started: less is extracted before it would be there
_WORKER = Path(__file__).with_name("unpack_worker.py")


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
        package = {"key": key(artefact), **{n: getattr(artefact, n) for n in ("name", "version", "build", "sha256")}}
        job = {
            "archive": str(archive), "package": package, "packages": str(self._packages), "compare": self._compare
        }  # fmt: skip
        self._make_places(archive.stat().st_size)
        child = self._idle.get()
        try:
            child = child or self._start()
            answer = _ask(child, job)
        finally:
            self._idle.put(child)
        if answer["event"] != "unpacked":
            raise self._error(answer, artefact)

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
            child = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                encoding="utf-8", cwd="/",
            )  # fmt: skip
            self._children.append(child)
            return child

    def _error(self, answer: Mapping[str, str], artefact: CondaArtefact) -> SatenvError:
        text = answer["text"]
        if answer["event"] == "refused":
            return VerificationError(text, answer.get("remedy"))
        if any(mark in text for mark in diskspace.MARKS):
            return diskspace.full(self._packages.parent, "the extracted packages")
        if "Permission denied" in text or "Read-only file system" in text:
            return PrefixError(f"{self._packages}: not writable: {text}", "choose another cache with SATENV_CACHE")
        return SatenvError(
            f"{artefact.file_name} can't be extracted: {text}",
            "run it again; if it repeats, check memory limits (ulimit, cgroup) and report it",
        )


def _ask(child: subprocess.Popen[str], job: Mapping[str, Any]) -> dict[str, str]:
    try:
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
        if line := child.stdout.readline():
            return json.loads(line)
    except (OSError, ValueError):
        pass  # it died: its return code says how
    return {"event": "failed", "text": f"the extracting process ended with {child.wait()}"}

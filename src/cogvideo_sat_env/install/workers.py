"""Does the tasks of tasks.py for many packages, in several processes: threads would wait for each other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from cogvideo_sat_env.base.errors import SatenvError, VerificationError
from cogvideo_sat_env.install import tasks
from cogvideo_sat_env.install.staging import held_fds

FEW = 24  # packages that are done before a process would have started
PROCESSES = 8  # at most: more than a file system takes is of no use
REMEDY = "run it again; if it repeats, check memory limits (ulimit, cgroup) and report it"
_BATCH = 4  # packages a message
_WORKER = Path(__file__).with_name("worker_main.py")


class FailedError(Exception):
    """What a process that works on files couldn't do, or how it died, in words."""


class WorkerPool:
    """Processes that end with the block; they are started when there is enough to do, and used again.

    Staging directories have to be made before `start`: the processes keep the lock on them.
    """

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[str]] = []
        self._threads = ThreadPoolExecutor(PROCESSES)  # one asks one process
        self._shares: dict[str, int] = {}  # the process of each package, by its manifest

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:  # whatever they do
            child.kill()
        self._threads.shutdown()
        reap(self._children)

    def start(self, task: str, jobs: Sequence[Mapping[str, Any]]) -> Callable[[], list[Any]]:
        """Begin to do `task` (of tasks.py) with each of `jobs`; few are done at once, here.

        Return what waits for the results, in the order of the jobs; it raises the first error.
        """
        results: list[Any] = [None] * len(jobs)
        if len(jobs) <= FEW:
            results = [tasks.load(task)(**job) for job in jobs]
            return lambda: results
        while len(self._children) < min(PROCESSES, os.cpu_count() or 1):
            self._children.append(start_process())
        self._share({job["manifest_path"] for job in jobs} - self._shares.keys())

        def serve(number: int) -> None:
            share = [n for n, job in enumerate(jobs) if self._shares[job["manifest_path"]] == number]
            for batch in (share[start : start + _BATCH] for start in range(0, len(share), _BATCH)):
                try:
                    found = ask(self._children[number], task, [jobs[n] for n in batch])
                except FailedError as error:
                    raise SatenvError(f"the files of the packages can't be worked on: {error}", REMEDY) from error
                for n, result in zip(batch, found, strict=True):
                    results[n] = result

        served = [self._threads.submit(serve, number) for number in range(len(self._children))]

        def wait() -> list[Any]:
            for future in served:
                future.result()
            return results

        return wait

    def _share(self, manifests: Collection[str]) -> None:
        """Give each process about as many files; it remembers them from one task to the next."""
        loads = [0] * len(self._children)
        for size, path in sorted(((os.path.getsize(path), path) for path in manifests), reverse=True):
            number = loads.index(min(loads))
            loads[number] += size
            self._shares[path] = number

    def run(self, task: str, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Do `task` with each of `jobs`; return the results. Raises OSError, SatenvError (a process that died)."""
        return self.start(task, jobs)()


def start_process(*tasks: str, stderr: IO[str] | None = None) -> subprocess.Popen[str]:
    """Start a process that `ask` may be called with, for `tasks`; without any, for those of the standard library."""
    return subprocess.Popen(
        [sys.executable, "-I", *([] if tasks else ["-S"]), str(_WORKER), *tasks], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8", pass_fds=held_fds(),
        cwd="/",  # the user's may be gone
    )  # fmt: skip


def reap(children: Sequence[subprocess.Popen[str]]) -> None:
    """Close the pipes of killed processes and wait for their ends."""
    for child in children:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        child.wait()


def ask(
    child: subprocess.Popen[str], task: str, jobs: Sequence[Mapping[str, Any]],
    seen: Callable[[str], None] = lambda event: None,
) -> list[Any]:  # fmt: skip
    """Have a process do `task` with each of `jobs`; return the results. `seen` gets the events that the task sends.

    Raises VerificationError and OSError as the task does, FailedError for all else and for a process that died.
    """
    answer: dict[str, Any] = {}
    try:
        child.stdin.write(json.dumps({"task": task, "jobs": jobs}) + "\n")
        child.stdin.flush()
        while line := child.stdout.readline():
            answer = json.loads(line)
            if "event" not in answer:
                break
            seen(answer["event"])
    except (OSError, ValueError):
        child.kill()  # it is dying, which its return code tells, or what it says is no answer
    if "results" in answer:
        return answer["results"]
    if "refused" in answer:
        raise VerificationError(*answer["refused"])
    if "system" in answer:
        raise OSError(*answer["system"])
    raise FailedError(answer.get("failed") or f"the process ended with {child.wait()}")

"""Many files at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.address import local_path
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress, Task
from cogvideo_sat_env.fetch.download import Downloader
from cogvideo_sat_env.fetch.limit import Limiter
from cogvideo_sat_env.fetch.session import Sessions
from cogvideo_sat_env.fetch.transfer import Live, StoppedError
from cogvideo_sat_env.fetch.wanted import Policy, Wanted

_ENDING_SECONDS = 5.0  # that transfers may take to notice that they shall stop


def fetch_files(
    wanted: Sequence[Wanted],
    *,
    title: str,
    what: str,
    progress: Progress,
    policy: Policy | None = None,
    trust: Callable[[Wanted], bool] = lambda _: False,
    ready: Callable[[Wanted], None] = lambda _: None,
) -> list[Wanted]:
    """Have every file at its path, proven; return those that had to be fetched.

    What is there is hashed again, but for files that `trust` accepts by their size and time. `what` names the whole
    for messages about space. `ready` is called from any thread, once for each file as soon as it is proven.
    Raises VerificationError (bytes differ), SourceError (not to be had), PrefixError (no space, not writable).
    """
    policy = policy or Policy()
    known = [w.size for w in wanted]
    total = sum(size for size in known if size) if all(known) else None
    with progress.task(title, total, "bytes") as task:
        missing = _missing(wanted, task, progress, trust, ready)
        if missing:
            _require_space(missing, what)
            with diskspace.watch(missing[0].path.parent, what, sum(w.size or 0 for w in missing) or None):
                _fetch_all(missing, task, progress, policy, ready)
    return missing


def _missing(
    wanted: Sequence[Wanted],
    task: Task,
    progress: Progress,
    trust: Callable[[Wanted], bool],
    ready: Callable[[Wanted], None],
) -> list[Wanted]:
    """Hash what is there; forget what differs, and return what must be fetched."""

    def is_good(item: Wanted) -> bool | None:
        try:
            size = item.path.stat().st_size
        except FileNotFoundError:
            return None
        if not item.path.is_file():
            raise PrefixError(f"{item.path}: is no file; {item.name} belongs there", "remove what is there")
        if item.size is not None and size != item.size:
            return False
        if trust(item):
            task.advance(size)
        elif sha256_file(item.path, task.advance) != item.sha256:
            task.advance(-size)
            return False
        ready(item)
        return True

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:  # hashlib leaves the interpreter lock
        good = list(pool.map(is_good, wanted))
    for item, fine in zip(wanted, good, strict=True):
        if fine is False:
            progress.say(f"{item.path.parent}: {item.path.name} was damaged; it is fetched again")
            item.path.unlink(missing_ok=True)
    return [item for item, fine in zip(wanted, good, strict=True) if not fine]


def _require_space(missing: Sequence[Wanted], what: str) -> None:
    folder = missing[0].path.parent
    needed = 0
    for item in missing:
        url = item.urls[0] if item.urls else ""
        linked = url.startswith("file:") and diskspace.same_file_system(local_path(url), folder)
        partial = item.path.with_name(f"{item.path.name}.partial")
        there = partial.stat().st_size if partial.is_file() else 0
        needed += 0 if linked else max(0, (item.size or 0) - there)
    diskspace.require(folder, needed, what)


def _fetch_all(
    missing: Sequence[Wanted], task: Task, progress: Progress, policy: Policy, ready: Callable[[Wanted], None]
) -> None:
    live = Live()
    downloader = Downloader(policy, Sessions(), Limiter(policy.limit_rate), live, task, progress)

    def one(item: Wanted) -> None:
        if live.stop.is_set():
            raise StoppedError
        task.note(item.name)
        downloader.get(item)
        ready(item)

    pool = ThreadPoolExecutor(max_workers=max(1, policy.jobs))
    # the largest first: a big one that begins last would be waited for alone
    jobs = [pool.submit(one, item) for item in sorted(missing, key=lambda w: (-(w.size or 0), w.name))]
    try:
        wait(jobs, return_when=FIRST_EXCEPTION)
    finally:
        unfinished = [job for job in jobs if not job.done()]
        if unfinished or any(job.exception() for job in jobs if not job.cancelled()):
            live.end()
        pool.shutdown(wait=False, cancel_futures=True)
        # nothing writes any more when the error is shown
        wait([job for job in jobs if not job.cancelled()], timeout=_ENDING_SECONDS)
    failures = [job.exception() for job in jobs if job.done() and not job.cancelled()]
    real = [failure for failure in failures if failure and not isinstance(failure, StoppedError)]
    if real:
        raise real[0]

"""Every artefact into the cache, with its size and SHA-256 proven: from a channel, a mirror, or a folder.

HTTP, its retries, proxies and credentials are py-rattler's; what is ours is the proof.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rattler.config import Config
from rattler.exceptions import ConfigError
from rattler.networking import Client
from rattler.package_streaming import download_to_writer

from cogvideo_sat_env.errors import InputError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.install import space
from cogvideo_sat_env.install.hashing import sha256_file
from cogvideo_sat_env.lock.model import CondaArtefact
from cogvideo_sat_env.progress import Progress, Task

JOBS = 8
ATTEMPTS = 3  # for a body that ends early or differs; py-rattler itself repeats requests that fail before the body
STALLED = 60.0  # seconds without a byte after which a transfer is given up
_STALE_PARTIAL = 24 * 3600.0  # seconds; a younger one may belong to a living run


@dataclass(frozen=True)
class _Wanted:
    artefact: CondaArtefact
    url: str
    path: Path


class _Received:
    """Counts, hashes and writes a body as it arrives; refuses more bytes than the lock says."""

    def __init__(self, stream: BinaryIO, task: Task, limit: int | None) -> None:
        self._stream, self._task, self._limit = stream, task, limit
        self._digest = hashlib.sha256()
        self.size = 0
        self.last = time.monotonic()

    def write(self, piece: bytes) -> int:
        self.size += len(piece)
        if self._limit is not None and self.size > self._limit:
            raise _TooLongError
        self._digest.update(piece)
        self._stream.write(piece)
        self.last = time.monotonic()
        self._task.advance(len(piece))
        return len(piece)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _TooLongError(Exception):
    """More bytes arrive than the lock says."""


class _StalledError(Exception):
    """No byte arrived for STALLED seconds."""


def artefact_path(cache: Path, sha256: str, file_name: str) -> Path:
    """Return where the cache keeps the file with this SHA-256.

    Raises InputError for a name that is no plain file name (a lock may have been edited by hand).
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not re.fullmatch(r"[^/\\\0.][^/\\\0]*", file_name):
        raise InputError(
            f"{file_name!r} with SHA-256 {sha256!r} can't be a file of a lock",
            "make the lock again: scripts/satenv lock",
        )
    return cache / "artefacts" / sha256[:2] / sha256 / file_name


def fetch(
    artefacts: Sequence[CondaArtefact],
    *,
    locate: Callable[[CondaArtefact], str],
    cache: Path,
    progress: Progress,
    jobs: int = JOBS,
    attempts: int = ATTEMPTS,
) -> dict[str, Path]:
    """Bring every artefact into `cache` and return its path by SHA-256; all are proven when this returns.

    What the cache already has is hashed again. `locate` gives the URL (http, https or file) of an artefact.
    Raises VerificationError (bytes differ from the lock), SourceError (not to be had), PrefixError (no space).
    """
    unique = {a.sha256: a for a in artefacts}
    wanted = [_Wanted(a, locate(a), artefact_path(cache, a.sha256, a.file_name)) for a in unique.values()]
    known = [a.size for a in unique.values()]
    total = sum(size for size in known if size) if all(known) else None
    with progress.task(f"Fetching and verifying {len(wanted)} packages", total, "bytes") as task:
        missing = _missing(wanted, task, progress)
        _require_space(cache, missing)
        with space.watch(cache, "the downloads", sum(w.artefact.size or 0 for w in missing) or None):
            asyncio.run(_fetch_all(missing, task, progress, jobs, attempts))
    return {w.artefact.sha256: w.path for w in wanted}


def _missing(wanted: Sequence[_Wanted], task: Task, progress: Progress) -> list[_Wanted]:
    """Hash what the cache has; forget what differs, and return what must be fetched."""
    there = [w for w in wanted if w.path.is_file()]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:  # hashlib leaves the interpreter lock
        good = list(pool.map(lambda w: _is_good(w, task), there))
    bad = {w.path for w, fine in zip(there, good, strict=True) if not fine}
    for path in sorted(bad):
        progress.say(f"cache: {path.name} was damaged; it is fetched again")
        path.unlink(missing_ok=True)
    present = {w.path for w in there} - bad
    return [w for w in wanted if w.path not in present]


def _is_good(wanted: _Wanted, task: Task) -> bool:
    size = wanted.path.stat().st_size
    if wanted.artefact.size is not None and size != wanted.artefact.size:
        return False
    if sha256_file(wanted.path, task.advance) == wanted.artefact.sha256:
        return True
    task.advance(-size)
    return False


def _require_space(cache: Path, missing: Sequence[_Wanted]) -> None:
    needed = sum(
        w.artefact.size or 0
        for w in missing
        if not w.url.startswith("file:") or not space.same_file_system(_local(w.url), cache)
    )
    space.require(cache, needed, "the download of the packages")


async def _fetch_all(
    missing: Sequence[_Wanted], task: Task, progress: Progress, jobs: int, attempts: int
) -> None:
    if not missing:
        return
    try:  # the user's own rattler configuration: proxies, mirrors, certificates, credentials
        client = Client.from_config(Config.load_from_default_locations("rattler"), max_retries=attempts)
    except ConfigError as error:
        raise InputError(f"rattler's configuration file can't be used: {error}", "mend or remove that file") from error
    gate = asyncio.Semaphore(jobs)

    async def one(wanted: _Wanted) -> None:
        async with gate:
            task.note(wanted.artefact.name)
            await _fetch_one(client, wanted, task, progress, attempts)

    running = [asyncio.create_task(one(wanted)) for wanted in missing]
    try:
        await asyncio.gather(*running)
    finally:
        for job in running:
            job.cancel()
        await asyncio.gather(*running, return_exceptions=True)  # nothing writes any more when the error is shown


async def _fetch_one(client: Client, wanted: _Wanted, task: Task, progress: Progress, attempts: int) -> None:
    folder = wanted.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.partial"):
        if time.time() - left.stat().st_mtime > _STALE_PARTIAL:
            left.unlink(missing_ok=True)
    partial = folder / f"{wanted.artefact.file_name}.{secrets.token_hex(4)}.partial"
    try:
        for attempt in range(1, attempts + 1):
            received = 0
            try:
                if wanted.url.startswith("file:"):
                    received, found = await asyncio.to_thread(_take, wanted, partial, task)
                else:
                    received, found = await _download(client, wanted, partial, task)
                _prove(wanted, received, found)
                partial.replace(wanted.path)
                return
            except VerificationError as error:
                task.advance(-received)
                if attempt == attempts or wanted.url.startswith("file:"):
                    raise
                progress.say(f"{error.message}; trying again")
                await asyncio.sleep(0.2 * 2**attempt)
    finally:
        partial.unlink(missing_ok=True)


async def _download(client: Client, wanted: _Wanted, partial: Path, task: Task) -> tuple[int, str]:
    with open(partial, "wb") as stream:
        received = _Received(stream, task, wanted.artefact.size)
        transfer = asyncio.ensure_future(download_to_writer(client, wanted.url, received))
        try:
            while not transfer.done():
                await asyncio.wait({transfer}, timeout=1.0)
                if not transfer.done() and time.monotonic() - received.last > STALLED:
                    raise _StalledError
            await transfer
        except _TooLongError as error:
            task.advance(-received.size)
            raise VerificationError(
                f"{wanted.artefact.file_name} from {redact(wanted.url)}: expected {wanted.artefact.size:,} bytes, "
                "more arrive",
                _DIFFERS,
            ) from error
        except OSError as error:
            task.advance(-received.size)
            if error.errno is not None:  # from our own write, e.g. a full disk
                raise
            raise _cut_off(wanted, received.size, str(error)) from error
        except _StalledError as error:
            task.advance(-received.size)
            raise _cut_off(wanted, received.size, f"no byte for {STALLED:.0f} s") from error
        except RuntimeError as error:  # py-rattler's only class for HTTP failures
            task.advance(-received.size)
            raise _source_error(wanted, str(error)) from error
        finally:
            transfer.cancel()
    return received.size, received.hexdigest()


def _take(wanted: _Wanted, partial: Path, task: Task) -> tuple[int, str]:
    source = _local(wanted.url)
    try:
        real = os.path.realpath(source)
        try:
            os.link(real, partial)
        except OSError:  # another file system, or a file of somebody else's
            shutil.copyfile(real, partial)
    except FileNotFoundError as error:
        raise SourceError(
            f"{source}: no such file; expected {wanted.artefact.file_name} there",
            "complete the mirror, or use another --source",
        ) from error
    return partial.stat().st_size, sha256_file(partial, task.advance)


_DIFFERS = (
    "the source (or a proxy on the way) serves other bytes than were locked: try another --source, and tell whoever "
    "keeps the mirror; if the channel itself replaced the file, make the lock again with scripts/satenv lock"
)


def _prove(wanted: _Wanted, size: int, sha256: str) -> None:
    artefact = wanted.artefact
    where = f"{artefact.file_name} from {redact(wanted.url)}"
    if artefact.size is not None and size != artefact.size:
        kind = "truncated: " if size < artefact.size else ""
        raise VerificationError(f"{where}: {kind}expected {artefact.size:,} bytes, found {size:,}", _DIFFERS)
    if sha256 != artefact.sha256:
        raise VerificationError(
            f"{where}: expected SHA-256 {artefact.sha256}, found {sha256} ({size:,} bytes)", _DIFFERS
        )


def _cut_off(wanted: _Wanted, size: int, why: str) -> VerificationError:
    expected = "more" if wanted.artefact.size is None else f"{wanted.artefact.size:,}"
    return VerificationError(
        f"{wanted.artefact.file_name} from {redact(wanted.url)}: truncated: expected {expected} bytes, "
        f"found {size:,} when the transfer broke off ({why})",
        "run it again: what is complete is kept; if it goes on, use another --source",
    )


def _source_error(wanted: _Wanted, text: str) -> SatenvError:
    url, name = redact(wanted.url), wanted.artefact.file_name
    base = redact(wanted.url[: -len(f"/{wanted.artefact.subdir}/{name}")]) if wanted.url.endswith(name) else url
    status = re.search(r"\((\d{3}) ([^)]*)\)", text)
    if status is None:
        reason = "too many redirects" if "redirect" in text else text.replace(wanted.url, url)
        return SourceError(
            f"{base}: can't be reached for {name} ({reason}): {url}",
            "check the network and the proxy settings (HTTPS_PROXY); or use --source mirror=URL-or-DIR, or "
            "--source wheels where only a package index can be reached",
        )
    code, phrase = int(status[1]), status[2]
    if code in (401, 403, 407):
        remedy = "store the credentials where conda tools look for them (netrc, keyring), or use another --source"
    elif code in (404, 410):
        remedy = "the source lacks a locked file: complete the mirror, or make the lock again with scripts/satenv lock"
    else:
        remedy = "the server is in trouble: run it again later (what is complete is kept), or use another --source"
    return SourceError(f"{base}: answers {code} {phrase} for {name}: {url}", remedy)


def redact(url: str) -> str:
    """Return `url` without user, password and conda token, for messages."""
    url = re.sub(r"(?<=://)[^/@]*@", "", url)
    return re.sub(r"/t/[^/]+/", "/t/<TOKEN>/", url)


def _local(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))

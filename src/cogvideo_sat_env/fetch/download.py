"""One file: from the first of its addresses that has the right bytes, with patience, or one error that names all."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cogvideo_sat_env.base.address import Address, local_path
from cogvideo_sat_env.base.errors import SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.files import link_or_copy, replacing
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.fetch.partial import Partial, hold
from cogvideo_sat_env.fetch.proxies import is_usable
from cogvideo_sat_env.fetch.transfer import AgainError, RefusedError, Shared, StoppedError, TooLongError, Transfer
from cogvideo_sat_env.fetch.wanted import Wanted

_OTHER = "another source (--source; for mirror and bundle: --from)"
_BEFORE_THE_NEXT = 2  # tries in vain of an address while there is another one: a dead mirror shall not cost minutes
_MOST_RESUMED = 1000  # times that one file may be continued, however little came each time


@dataclass(frozen=True)
class Downloader(Shared):
    """Brings one file after the other, from any thread."""

    progress: Progress
    away: set[str] = field(default_factory=set)  # hosts that used up all patience: from then on asked last

    def get(self, wanted: Wanted) -> None:
        """Put the file where it is wanted, its size and SHA-256 proven.

        Raises VerificationError (wrong or too few bytes), SourceError (not to be had); after wrong bytes nothing is
        kept, after a break what has arrived is kept in FILE.partial for the next run.
        """
        with hold(wanted.path) as partial:
            if wanted.path.is_file() and sha256_file(wanted.path, self.task.advance) == wanted.sha256:
                partial.restart()  # another process has just received it
                return
            if wanted.size is not None and partial.size > wanted.size:
                partial.restart()
            self.task.advance(partial.size)
            failures: list[SatenvError] = []
            urls = [place for url in wanted.urls for place in self.sessions.places(url)]
            urls.sort(key=lambda url: urlsplit(url).netloc in self.away)
            for number, url in enumerate(urls, 1):
                try:
                    if url.startswith("file:"):
                        self._take(wanted, url, partial)
                    else:
                        self._download(wanted, url, partial, is_last=number == len(urls))
                    return
                except (SourceError, VerificationError) as error:
                    failures.append(error)
                    if len(urls) > len(failures):
                        self.progress.say(f"{error.message}; trying the next source")
            self.task.advance(-partial.size)
            raise combined(wanted.name, failures)

    def _download(self, wanted: Wanted, url: Address, partial: Partial, is_last: bool) -> None:
        transfer = Transfer(url, self)
        attempts = self.policy.attempts if is_last else min(self.policy.attempts, _BEFORE_THE_NEXT)
        vain, fresh = 0, False
        differed: SatenvError | None = None
        for _ in range(_MOST_RESUMED):
            before, begun, wait, wrong = partial.size, time.monotonic(), None, True
            try:
                transfer.run(partial, wanted.size, fresh=fresh)
                _require_same(wanted, url, partial.size, partial.hexdigest(), transfer.served_as)
                partial.keep_as(wanted.path)
                return
            except RefusedError as error:
                raise _refused(wanted, url, error, self.sessions.proxy(url)) from error
            except AgainError as error:
                gained = partial.size - before > self.policy.slowest * (time.monotonic() - begun)
                vain = 0 if gained and not error.slow else vain + 1
                failure: SatenvError = _gave_up(
                    wanted, url, partial.size, error, None if error.connected else self.sessions.proxy(url)
                )
                wait, wrong = error.wait, False
            except TooLongError as error:
                failure = _too_long(wanted, url, error.allowed)
                differed = failure if error.allowed else differed  # it isn't asked for a second time
            except VerificationError as error:
                failure = error
            if wrong:
                self.task.advance(-partial.size)
                partial.restart()
                if differed is not None:  # the same again: it isn't a fault on the way
                    raise failure
                differed, fresh, wait, vain = failure, True, None, 1
            if vain >= attempts:
                if not wrong:
                    self.away.add(urlsplit(url).netloc)
                raise failure
            if vain or wait:
                self._pause(vain, wait)
            if isinstance(failure, VerificationError):
                self.progress.say(f"{failure.message}; trying again")
        raise failure

    def _pause(self, vain: int, wait: float | None) -> None:
        if wait is None:  # jitter: eight transfers that broke together don't come back together
            wait = self.policy.backoff * 2 ** max(0, vain - 1) * random.uniform(0.75, 1.25)
        if self.live.stop.wait(wait):
            raise StoppedError

    def _take(self, wanted: Wanted, url: str, partial: Partial) -> None:
        """Link or copy from a folder."""
        source = local_path(url)
        real = os.path.realpath(source)
        self.task.advance(-partial.size)
        partial.restart()
        try:
            open(real, "rb").close()
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise SourceError(
                f"{source}: {reason}; expected {wanted.name} there", f"complete the mirror, or use {_OTHER}"
            ) from error
        with replacing(wanted.path) as side:
            link_or_copy(Path(real), side)
            size, found = side.stat().st_size, sha256_file(side, self._advance_or_stop)
            try:
                _require_same(wanted, url, size, found)
            except VerificationError:
                self.task.advance(-size)
                raise

    def _advance_or_stop(self, amount: int) -> None:
        if self.live.stop.is_set():
            raise StoppedError
        self.task.advance(amount)


def _require_same(wanted: Wanted, url: str, size: int, sha256: str, served_as: str = "") -> None:
    """Raise VerificationError unless what `url` gave are the bytes that are `wanted`."""
    if wanted.size is not None and size != wanted.size:
        text = f"{'truncated: ' if size < wanted.size else ''}expected {wanted.size:,} bytes, found {size:,}"
    elif sha256 != wanted.sha256:
        hint = f", served as {served_as}" if served_as else ""
        text = f"expected SHA-256 {wanted.sha256}, found {sha256} ({size:,} bytes{hint})"
    else:
        return
    raise VerificationError(f"{wanted.name} from {url}: {text}", _other_bytes(wanted))


def _other_bytes(wanted: Wanted) -> str:
    return (
        f"the source (or a proxy on the way) serves other bytes than were locked: try {_OTHER}, and tell whoever "
        f"keeps the mirror; if the channel itself replaced the file, {wanted.relock}"
    )


def _too_long(wanted: Wanted, url: Address, allowed: int | None) -> VerificationError:
    if allowed is None:
        return VerificationError(
            f"{wanted.name} from {url}: expected {wanted.size:,} bytes, more arrive", _other_bytes(wanted)
        )
    return VerificationError(
        f"{wanted.name} from {url}: more than {human_bytes(allowed)}, and the lock doesn't say its size",
        f"if it is really that large, raise the limit with --max-file-size; else try {_OTHER}",
    )


def _gave_up(
    wanted: Wanted, url: Address, size: int, error: AgainError, proxy: tuple[Address, str] | None
) -> SatenvError:
    if error.cut_off:
        expected = "more" if wanted.size is None else f"{wanted.size:,}"
        return VerificationError(
            f"{wanted.name} from {url}: truncated: expected {expected} bytes, found {size:,} when the transfer "
            f"broke off ({error.why})",
            "run it again: what is complete is kept, and this file goes on where it broke off; if it goes on so, use "
            f"{_OTHER}",
        )
    if error.malformed:
        return SourceError(
            f"{url}: the server's answer is malformed ({error.why})",
            f"tell whoever keeps that server (or a proxy on the way), or use {_OTHER}",
        )
    if error.status:
        return SourceError(
            f"{url}: answers {error.why}",
            f"the server is in trouble: run it again later (what is complete is kept), or use {_OTHER}",
        )
    if proxy:
        return _through(url, *proxy, error.why)
    return SourceError(
        f"{url}: can't be reached ({error.why})",
        "check the network and the proxy settings (HTTPS_PROXY); or use --source mirror=URL-or-DIR, or --source wheels "
        "where only a package index can be reached; for mirror: --from URL-or-DIR; for bundle pack: either",
    )


def _through(url: Address, proxy: Address, setting: str, why: str) -> SourceError:
    return SourceError(
        f"{url}: can't be reached through the proxy {proxy}, which {setting} names ({why})",
        f"correct or unset {setting}; what is to be asked without a proxy goes into NO_PROXY",
    )


def _refused(wanted: Wanted, url: Address, error: RefusedError, proxy: tuple[Address, str] | None) -> SourceError:
    if proxy and (error.status == 407 or not is_usable(proxy[0])):
        return _through(url, *proxy, error.why if error.status else "it is no address of a proxy")
    if error.status in (401, 403, 407):
        remedy = (
            "store the credentials where conda tools look for them (netrc, RATTLER_AUTH_FILE, keyring), or use "
            f"{_OTHER}"
        )
    elif error.status in (404, 410):
        remedy = f"the source lacks a locked file: complete the mirror, or {wanted.relock}"
    else:
        remedy = f"run it again later (what is complete is kept), or use {_OTHER}"
    what = f"answers {error.why}" if error.status else f"can't be used ({error.why})"
    return SourceError(f"{url}: {what} for {wanted.name}", remedy)


def combined(name: str, failures: Sequence[SatenvError]) -> SatenvError:
    """Return one error that names every address; wrong bytes weigh more than an address that doesn't answer."""
    if len(failures) == 1:
        return failures[0]
    if not failures:
        return SourceError(f"{name}: no source is known for it", f"use {_OTHER}")
    worst = next((f for f in failures if isinstance(f, VerificationError)), failures[0])
    lines = "".join(f"\n    {failure.message}" for failure in failures)
    return type(worst)(f"{name}: none of {len(failures)} sources has it:{lines}", worst.remedy)

"""One request: the body, or what is missing of it, into a partial file."""

from __future__ import annotations

import email.utils
import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import requests
import urllib3

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.printable import printable
from cogvideo_sat_env.base.progress import Task
from cogvideo_sat_env.fetch.deadline import Deadline
from cogvideo_sat_env.fetch.limit import Limiter
from cogvideo_sat_env.fetch.partial import Partial
from cogvideo_sat_env.fetch.redact import redact
from cogvideo_sat_env.fetch.session import Sessions
from cogvideo_sat_env.fetch.wanted import Policy

AGAIN = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)  # 52x: of a proxy in front of the server


_UNREADABLE = {
    http.client.BadStatusLine, http.client.LineTooLong, http.client.HTTPException, http.client.UnknownProtocol,
    http.client.IncompleteRead, urllib3.exceptions.InvalidHeader, urllib3.exceptions.HeaderParsingError,
}  # fmt: skip
_UNCONNECTED = {
    urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError, urllib3.exceptions.ProxyError,
    urllib3.exceptions.ConnectTimeoutError, requests.exceptions.ProxyError,
}  # fmt: skip


class AgainError(Exception):
    """Worth another try. `wait` is what the server asks for, in seconds; `cut_off` that a body had begun.

    `slow` says that the bytes that came are too few to count, `malformed` that the answer's head can't be read.
    """

    def __init__(
        self, why: str, *, wait: float | None = None, status: int = 0, cut_off: bool = False, slow: bool = False,
        malformed: bool = False, connected: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(why)
        self.why, self.wait, self.status, self.cut_off, self.slow = why, wait, status, cut_off, slow
        self.malformed, self.connected = malformed, connected


class RefusedError(Exception):
    """The server's last word."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.why, self.status = why, status


class TooLongError(Exception):
    """More bytes arrive than the lock says; where it says nothing, `allowed` is what is taken at most."""

    def __init__(self, allowed: int | None = None) -> None:
        super().__init__(allowed)
        self.allowed = allowed


class StoppedError(Exception):
    """Another transfer has failed, or the user interrupts."""


@dataclass
class Live:
    """The transfers that are under way, to be ended all at once."""

    stop: threading.Event = field(default_factory=threading.Event)
    _answers: set[requests.Response] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def reading(self, answer: requests.Response) -> Iterator[None]:
        """Have `answer` end with all others in the block; it is closed then. Raises StoppedError when all shall end."""
        with closing(answer):
            with self._lock:
                if self.stop.is_set():
                    raise StoppedError
                self._answers.add(answer)
            try:
                yield
            finally:
                with self._lock:
                    self._answers.discard(answer)

    def end(self) -> None:
        """Make every transfer stop, also one that waits for bytes."""
        with self._lock:
            self.stop.set()
            for answer in self._answers:
                try:
                    answer.raw.shutdown()
                except (OSError, ValueError, RuntimeError):  # it has just ended by itself
                    continue


@dataclass(frozen=True)
class Shared:
    """What all transfers share."""

    policy: Policy
    sessions: Sessions
    limiter: Limiter
    live: Live
    task: Task


@dataclass
class Transfer:
    """What is known of one address so far about the file; `served_as` helps to explain wrong bytes."""

    url: Address
    shared: Shared
    etag: str = ""
    no_range: bool = False
    served_as: str = ""

    def run(self, partial: Partial, size: int | None, *, fresh: bool) -> None:
        """Receive the body into `partial`, from where it ends where the server can. `fresh` asks past caches.

        Raises AgainError, RefusedError, TooLongError, StoppedError; OSError from our own disk.
        """
        headers = {"Cache-Control": "no-cache"} if fresh else {}
        if partial.size and not self.no_range:
            headers["Range"] = f"bytes={partial.size}-"
            if self.etag:
                headers["If-Range"] = self.etag
        policy = self.shared.policy
        answer = self._ask(headers)
        with self.shared.live.reading(answer):
            self._judge(answer, partial)
            if size is None and partial.size + (answer.raw.length_remaining or 0) > policy.max_size:
                raise TooLongError(policy.max_size)
            with Deadline(answer.raw.shutdown, policy.stall) as deadline:
                self._receive(answer, partial, size, deadline)

    def _ask(self, headers: dict[str, str]) -> requests.Response:
        try:
            return self.shared.sessions.get(self.url, headers, self.shared.policy.stall)
        except requests.TooManyRedirects as error:
            raise RefusedError("too many redirects") from error
        except requests.exceptions.InvalidHeader as error:
            raise AgainError(reason(error), malformed=True) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise RefusedError("not an address that can be asked") from error
        except requests.exceptions.SSLError as error:
            raise RefusedError(f"TLS: {reason(error)}") from error
        except requests.Timeout as error:
            raise AgainError(
                "no answer in time", connected=not isinstance(error, requests.exceptions.ConnectTimeout)
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            kinds = {type(cause) for cause in _causes(error)}
            if kinds & _UNREADABLE:
                raise AgainError(reason(error), malformed=True) from error
            raise AgainError(reason(error), connected=not kinds & _UNCONNECTED) from error

    def _judge(self, answer: requests.Response, partial: Partial) -> None:
        status, task = answer.status_code, self.shared.task
        if status == 206:
            start = re.match(r"bytes (\d{1,18})-", answer.headers.get("Content-Range", ""), re.ASCII)
            if start and int(start[1]) == partial.size:
                return
        if status in (206, 416):  # another range than asked for, or the file is shorter now
            _restart(partial, task)
            self.no_range = True
            raise AgainError("the server can't continue where the transfer broke off", wait=0.0, status=status)
        if status == 200:
            _restart(partial, task)  # the server ignores Range, or the file has changed
            etag = answer.headers.get("ETag", "")  # a weak one is no good for If-Range
            self.etag = (not etag.startswith("W/") and etag) or answer.headers.get("Last-Modified", "")
            encoding, kind = answer.headers.get("Content-Encoding", ""), answer.headers.get("Content-Type", "")
            signs = [f"Content-Encoding {printable(encoding[:80])}"] if encoding not in ("", "identity") else []
            self.served_as = ", ".join(signs + (["a web page"] if kind.startswith("text/html") else []))
            return
        if status in AGAIN:
            wait = _retry_after(answer.headers.get("Retry-After", ""))
            if wait is not None and wait > self.shared.policy.longest:
                raise RefusedError(f"{phrase(answer)}, and asks to be left alone for {wait:.0f} s", status)
            raise AgainError(phrase(answer), wait=wait, status=status)
        raise RefusedError(phrase(answer), status)

    def _receive(self, answer: requests.Response, partial: Partial, size: int | None, deadline: Deadline) -> None:
        policy, limiter, live = self.shared.policy, self.shared.limiter, self.shared.live
        spent, counted = 0.0, 0  # in the present window, without the time that our own limit takes
        while True:
            begun = time.monotonic()
            deadline.extend(policy.stall)
            piece = self._read(answer, limiter.piece, deadline)
            spent, counted = spent + time.monotonic() - begun, counted + len(piece)
            if live.stop.is_set():
                raise StoppedError
            if not piece:
                return
            if partial.size + len(piece) > (policy.max_size if size is None else size):
                raise TooLongError(policy.max_size if size is None else None)
            partial.write(piece)
            self.shared.task.advance(len(piece))
            if spent >= policy.window:
                if counted < policy.slowest * spent:
                    raise AgainError(f"slower than {policy.slowest:,.0f} bytes per second", cut_off=True, slow=True)
                spent, counted = 0.0, 0
            limiter.take(len(piece), live.stop)

    def _read(self, answer: requests.Response, amount: int, deadline: Deadline) -> bytes:
        slow = f"no byte for {self.shared.policy.stall:.0f} s"
        try:
            piece = answer.raw.read1(amount, decode_content=False) or b""
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if self.shared.live.stop.is_set():
                raise StoppedError from error
            if deadline.expired or isinstance(error, urllib3.exceptions.ReadTimeoutError):
                raise AgainError(slow, cut_off=True) from error
            raise AgainError(reason(error), cut_off=True) from error
        if deadline.expired and not piece:
            raise AgainError(slow, cut_off=True)
        return piece


def _restart(partial: Partial, task: Task) -> None:
    task.advance(-partial.size)
    partial.restart()


def _retry_after(value: str) -> float | None:
    """Return the seconds that a Retry-After header means: a number, or a date by this machine's clock."""
    try:
        if re.fullmatch(r"\s*\d+\s*", value, re.ASCII):
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def phrase(answer: requests.Response) -> str:
    """Return the status of an answer as it is shown."""
    return printable(f"{answer.status_code} {(answer.reason or '')[:80]}".strip())


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give a failure and those that it came from, the innermost last."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return
        yield seen
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = seen.args[-1] if seen.args and isinstance(seen.args[-1], BaseException) else seen.__cause__
        seen = inner if inner is not seen else None


def reason(error: BaseException) -> str:
    """Return the innermost words of a failure: those around it repeat the address, perhaps with a login."""
    *_, seen = _causes(error)
    text = str(getattr(seen, "strerror", None) or seen).strip() or type(seen).__name__
    text = re.sub(r"^.*?<[^>]*>: |^\w*ConnectionPool\([^)]*\): ", "", text).strip("() ")
    return redact(printable(text))[:300]

"""One request: the body, or what is missing of it, into a partial file."""

from __future__ import annotations

import email.utils
import re
import threading
import time
from dataclasses import dataclass, field

import requests
import urllib3

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Task
from cogvideo_sat_env.fetch.limit import Limiter
from cogvideo_sat_env.fetch.model import Policy
from cogvideo_sat_env.fetch.partial import Partial
from cogvideo_sat_env.fetch.session import Sessions

AGAIN = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)  # 52x: of a proxy in front of the server


class AgainError(Exception):
    """Worth another try. `wait` is what the server asks for, in seconds; `cut_off` that a body had begun.

    `slow` says that the bytes that came are too few to count.
    """

    def __init__(
        self, why: str, *, wait: float | None = None, status: int = 0, cut_off: bool = False, slow: bool = False
    ) -> None:
        super().__init__(why)
        self.why, self.wait, self.status, self.cut_off, self.slow = why, wait, status, cut_off, slow


class RefusedError(Exception):
    """The server's last word."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.why, self.status = why, status


class TooLongError(Exception):
    """More bytes arrive than the lock says."""


class StoppedError(Exception):
    """Another transfer has failed, or the user interrupts."""


@dataclass
class Live:
    """The transfers that are under way, to be ended all at once."""

    stop: threading.Event = field(default_factory=threading.Event)
    _answers: set[requests.Response] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, answer: requests.Response) -> None:
        """Count `answer` as being read. Raises StoppedError when all shall end."""
        with self._lock:
            if self.stop.is_set():
                answer.close()
                raise StoppedError
            self._answers.add(answer)

    def leave(self, answer: requests.Response) -> None:
        """It is read, or given up."""
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


@dataclass
class Transfer:
    """What one address has said so far about the file; `served_as` helps to explain wrong bytes."""

    url: str
    etag: str = ""
    no_range: bool = False
    served_as: str = ""

    def run(
        self, partial: Partial, size: int | None, *, sessions: Sessions, policy: Policy, limiter: Limiter, live: Live,
        task: Task, fresh: bool,
    ) -> None:  # fmt: skip
        """Receive the body into `partial`, from where it ends where the server can. `fresh` asks past caches.

        Raises AgainError, RefusedError, TooLongError, StoppedError; OSError from our own disk.
        """
        headers = {"Cache-Control": "no-cache"} if fresh else {}
        if partial.size and not self.no_range:
            headers["Range"] = f"bytes={partial.size}-"
            if self.etag:
                headers["If-Range"] = self.etag
        answer = self._ask(sessions, headers, policy)
        live.enter(answer)
        try:
            self._judge(answer, partial, policy, task)
            self._receive(answer, partial, size, policy, limiter, live, task)
        finally:
            live.leave(answer)
            answer.close()

    def _ask(self, sessions: Sessions, headers: dict[str, str], policy: Policy) -> requests.Response:
        try:
            return sessions.get(self.url, headers, policy.stall)
        except requests.TooManyRedirects as error:
            raise RefusedError("too many redirects") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise RefusedError("not an address that can be asked") from error
        except requests.exceptions.SSLError as error:
            raise RefusedError(f"TLS: {reason(error)}") from error
        except requests.Timeout as error:
            raise AgainError("no answer in time") from error
        except requests.RequestException as error:
            raise AgainError(reason(error)) from error

    def _judge(self, answer: requests.Response, partial: Partial, policy: Policy, task: Task) -> None:
        status = answer.status_code
        if status == 206:
            start = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            if start and int(start[1]) == partial.size:
                return
        if status in (206, 416):  # another range than asked for, or the file is shorter now
            _restart(partial, task)
            self.no_range = True
            raise AgainError("the server can't continue where the transfer broke off", wait=0.0, status=status)
        if status == 200:
            _restart(partial, task)  # the server ignores Range, or the file has changed
            self.etag = _strong(answer.headers.get("ETag", "")) or answer.headers.get("Last-Modified", "")
            encoding, kind = answer.headers.get("Content-Encoding", ""), answer.headers.get("Content-Type", "")
            said = [f"Content-Encoding {encoding}"] if encoding not in ("", "identity") else []
            self.served_as = ", ".join(said + (["a web page"] if kind.startswith("text/html") else []))
            return
        phrase = f"{status} {answer.reason or ''}".strip()
        if status in AGAIN:
            wait = _retry_after(answer.headers.get("Retry-After", ""))
            if wait is not None and wait > policy.longest:
                raise RefusedError(f"{phrase}, and asks to be left alone for {wait:.0f} s", status)
            raise AgainError(phrase, wait=wait, status=status)
        raise RefusedError(phrase, status)

    def _receive(
        self, answer: requests.Response, partial: Partial, size: int | None, policy: Policy, limiter: Limiter,
        live: Live, task: Task,
    ) -> None:  # fmt: skip
        spent, counted = 0.0, 0  # in the present window, without the time that our own limit takes
        while True:
            begun = time.monotonic()
            piece = self._read(answer, limiter.piece, policy, live)
            spent, counted = spent + time.monotonic() - begun, counted + len(piece)
            if live.stop.is_set():
                raise StoppedError
            if not piece:
                return
            if size is not None and partial.size + len(piece) > size:
                raise TooLongError
            partial.write(piece)
            task.advance(len(piece))
            if spent >= policy.window:
                if counted < policy.slowest * spent:
                    raise AgainError(f"slower than {policy.slowest:,.0f} bytes per second", cut_off=True, slow=True)
                spent, counted = 0.0, 0
            limiter.take(len(piece), live.stop)

    def _read(self, answer: requests.Response, amount: int, policy: Policy, live: Live) -> bytes:
        try:
            return answer.raw.read1(amount, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise AgainError(f"no byte for {policy.stall:.0f} s", cut_off=True) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if live.stop.is_set():
                raise StoppedError from error
            raise AgainError(reason(error), cut_off=True) from error


def _restart(partial: Partial, task: Task) -> None:
    task.advance(-partial.size)
    partial.restart()


def _strong(etag: str) -> str:
    return "" if etag.startswith("W/") else etag  # a weak one is no good for If-Range


def _retry_after(value: str) -> float | None:
    """Return the seconds that a Retry-After header means: a number, or a date by this machine's clock."""
    if value.strip().isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def reason(error: BaseException) -> str:
    """Return the innermost words of a failure: those around it repeat the address, perhaps with a login."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = seen.args[-1] if seen.args and isinstance(seen.args[-1], BaseException) else seen.__cause__
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    text = str(getattr(seen, "strerror", None) or seen).strip() or type(seen).__name__
    return re.sub(r"^.*?<[^>]*>: |^\w*ConnectionPool\([^)]*\): ", "", text).strip("() ")

"""HTTP connections that end: total time limits on connecting and on the head of an answer, few interim answers."""

from __future__ import annotations

import functools
import http.client
import socket
import threading
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from cogvideo_sat_env.fetch.deadline import Deadline

_INTERIM = 20  # answers of 1xx before the one that counts
_LINES = 100  # of the head of an interim answer
_REDIRECTS = 10
_DRAINED = 64 * 1024  # bytes of a redirect's body that are read so that the connection can be used again
_ADDRESSES = 3  # of a host with several, the first may not answer
_until = threading.local()


def limit(seconds: float) -> None:
    """Have all that this thread asks for from now on, redirects included, answered in `seconds`."""
    _until.moment = time.monotonic() + seconds


def _left(seconds: float) -> float:
    return max(0.0, min(seconds, getattr(_until, "moment", float("inf")) - time.monotonic()))


class _Response(http.client.HTTPResponse):
    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc] # private, and what there is
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            if not any(self.fp.readline(1000) in (b"\r\n", b"\n", b"") for _ in range(_LINES)):
                break
        raise http.client.HTTPException("interim answers without end")


class _Limited:
    """Goes in front of one of urllib3's connection classes."""

    response_class = _Response
    sock: socket.socket | None
    timeout: float

    def connect(self) -> None:
        self._within(self.timeout * _ADDRESSES, super().connect)  # type: ignore[misc] # that of the class behind

    def getresponse(self) -> Any:
        return self._within(self.timeout, super().getresponse)  # type: ignore[misc]

    def _shut_down(self) -> None:
        if self.sock is not None:
            self.sock.shutdown(socket.SHUT_RDWR)

    def _within(self, seconds: float, step: Any) -> Any:
        with Deadline(self._shut_down, _left(seconds)) as deadline:
            try:
                answer = step()
            except Exception as error:  # whatever the library makes of a connection that ends
                if deadline.expired:
                    raise TimeoutError("no answer in time") from error
                raise
        if deadline.expired:
            raise TimeoutError("no answer in time")
        return answer


@functools.lru_cache
def _limited(kind: type) -> type:
    return type(f"Limited{kind.__name__}", (_Limited, kind), {})


class LimitedAdapter(HTTPAdapter):
    """Uses such connections, also to and through proxies of every kind."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool of connections to a host."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(pool.ConnectionCls, _Limited):
            pool.ConnectionCls = _limited(pool.ConnectionCls)
        return pool


class LimitedSession(requests.Session):
    """Follows few redirects and reads next to nothing of their bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = _REDIRECTS
        for scheme in ("https://", "http://"):
            self.mount(scheme, LimitedAdapter(pool_maxsize=1))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where an answer leads to, if anywhere; its body is over then."""
        target = super().get_redirect_target(resp)
        if target is not None:
            length = resp.headers.get("Content-Length", "")
            if length.isascii() and length.isdigit() and len(length) < 6 and int(length) <= _DRAINED:
                with Deadline(resp.raw.shutdown, _left(10.0)):
                    resp.raw.drain_conn()
            else:
                resp.close()
        return target

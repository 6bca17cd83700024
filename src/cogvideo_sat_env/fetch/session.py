"""One HTTP session a thread, set up as the user's other tools are."""

from __future__ import annotations

import os
import threading
from urllib.parse import urlsplit

import requests
from requests.utils import get_netrc_auth

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.fetch import credentials
from cogvideo_sat_env.fetch.connection import LimitedSession, limit
from cogvideo_sat_env.fetch.proxies import proxy_of
from cogvideo_sat_env.fetch.settings import read_settings

CONNECT_SECONDS = 20
REFUSALS = (401, 403, 407)


class Sessions:
    """Hands out this thread's session and remembers what the keyring answered, so that it is asked once a host."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._asked: dict[str, credentials.Credential | None] = {}
        self._settings = read_settings()

    def _session(self) -> requests.Session:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = LimitedSession()
            session.headers["User-Agent"] = f"satenv/{__version__}"
            session.headers["Accept"] = "*/*"
            session.proxies.update(self._settings.proxies)
            verify = True if self._settings.verify is None else self._settings.verify
            session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT") or verify
        return session

    def places(self, url: Address) -> tuple[Address, ...]:
        """Return the addresses that the user's configuration has for `url`: its mirrors, or itself."""
        return self._settings.places(url)

    def proxy(self, address: Address) -> tuple[Address, str] | None:
        """Return the proxy that is asked for `address`, and the setting that names it."""
        return proxy_of(address.reveal(), self._settings.proxies)

    def get(
        self, address: Address, headers: dict[str, str], stall: float, connect: float = CONNECT_SECONDS
    ) -> requests.Response:
        """Ask for `address`, streaming; `stall` and `connect` are timeouts in seconds, `stall` also for the whole head.

        Raises requests' exceptions, InputError.
        """
        url, timeout = address.reveal(), (connect, stall)
        limit(2 * (connect + stall))
        answer = self._ask(url, headers, timeout, self._known(url))
        if answer.status_code in REFUSALS and "Authorization" not in answer.request.headers:
            found = self._from_keyring(url)
            if found:
                answer.close()
                answer = self._ask(url, headers, timeout, found)
        return answer

    def _ask(
        self, url: str, headers: dict[str, str], timeout: tuple[float, float], credential: credentials.Credential | None
    ) -> requests.Response:
        place, own = credentials.of_url(url)
        place, secret = (own or credential or credentials.Credential()).apply(place)
        # identity: the bytes of the lock, not what a server makes of them
        return self._session().get(
            place,
            headers={"Accept-Encoding": "identity", **headers, **secret},
            stream=True,
            timeout=timeout,
            auth=_Keep() if secret else None,
        )

    def _known(self, url: str) -> credentials.Credential | None:
        with self._lock:
            asked = self._asked.get(_host(url))
        if asked or get_netrc_auth(url):
            return asked  # requests reads netrc itself
        return credentials.stored(url)

    def _from_keyring(self, url: str) -> credentials.Credential | None:
        host = _host(url)
        with self._lock:
            if host not in self._asked:
                self._asked[host] = credentials.from_keyring(url)
            return self._asked[host]


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


class _Keep(requests.auth.AuthBase):
    """Stands for the header that is set already: requests would put netrc's login in its place."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request

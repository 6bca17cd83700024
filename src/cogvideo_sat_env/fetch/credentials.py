"""Credentials where conda's users keep them. They go into requests and nowhere else.

In this order: the address itself, rattler's credentials file (RATTLER_AUTH_FILE, ~/.rattler/credentials.json), netrc;
and only when a server refuses, the keyring (rattler's own entries, then those of the host).
"""

from __future__ import annotations

import json
import os
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from cogvideo_sat_env.base.errors import InputError

KEYRING_SECONDS = 30


@dataclass(frozen=True, repr=False)
class Credential:
    """Either a header value or a token for the path; never shown: it has no repr of its content."""

    header: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Credential(...)"

    def apply(self, url: str) -> tuple[str, dict[str, str]]:
        """Return the address and the headers to ask with."""
        if self.token:
            parts = urlsplit(url)
            if not parts.path.startswith("/t/"):
                url = urlunsplit(parts._replace(path=f"/t/{self.token}{parts.path}"))
        return url, {"Authorization": self.header} if self.header else {}


def _basic(user: str, password: str) -> Credential:
    return Credential(header="Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii"))


def of_url(url: str) -> tuple[str, Credential | None]:
    """Split user and password off an address."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    login, _, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=place)), _basic(unquote(user), unquote(password))


def stored(url: str) -> Credential | None:
    """Return what rattler's credentials file says for the host of `url`. Raises InputError for a broken file."""
    named = os.environ.get("RATTLER_AUTH_FILE")
    path = Path(named) if named else Path(os.path.expanduser("~")) / ".rattler" / "credentials.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # the parser's own words could quote the file
        raise InputError(
            f"{path}: can't be read as rattler's credentials file ({type(error).__name__})", "correct or remove it"
        ) from None
    if not isinstance(entries, dict):
        raise InputError(f"{path}: expected a JSON object with host names as keys", "correct or remove it")
    for host in _hosts(urlsplit(url).hostname or ""):
        if host in entries:
            return _of_rattler(entries[host], str(path))
    return None


def _hosts(host: str) -> Iterator[str]:
    yield host
    parts = host.split(".")
    for start in range(1, len(parts)):
        yield "*." + ".".join(parts[start:])


def _of_rattler(entry: object, where: str) -> Credential | None:
    if isinstance(entry, Mapping):
        for kind, value in entry.items():
            if kind == "BearerToken":
                return Credential(header=f"Bearer {value}")
            if kind == "CondaToken":
                return Credential(token=str(value))
            if kind in ("BasicHTTP", "BasicHttp") and isinstance(value, Mapping):
                return _basic(str(value.get("username", "")), str(value.get("password", "")))
    raise InputError(
        f"{where}: expected BearerToken, CondaToken or BasicHTTP for a host", "correct or remove the entry"
    )


def from_keyring(url: str) -> Credential | None:
    """Ask the keyring for the host of `url`: rattler's entry, then a login as pip and others keep them.

    Raises InputError when there is a keyring that can't be asked, or doesn't answer in KEYRING_SECONDS.
    """
    host = urlsplit(url).hostname or ""
    answer: Future[Credential | None] = Future()
    # a locked keyring asks its owner on a screen that a batch job hasn't; its call can't be interrupted
    threading.Thread(target=_ask_keyring, args=(host, answer), daemon=True).start()
    try:
        return answer.result(KEYRING_SECONDS)
    except TimeoutError:
        raise _keyring_error(host, f"no answer in {KEYRING_SECONDS} s") from None


def _ask_keyring(host: str, answer: Future[Credential | None]) -> None:
    import keyring
    from keyring.errors import NoKeyringError

    try:
        found = keyring.get_password("rattler", host)
        if found:
            answer.set_result(_of_rattler(json.loads(found), "the keyring's entry 'rattler'"))
            return
        login = keyring.get_credential(host, None)
        answer.set_result(_basic(login.username or "", login.password) if login else None)
    except NoKeyringError:
        answer.set_result(None)
    except InputError as error:
        answer.set_exception(error)
    except Exception as error:  # each backend raises its own; their words could quote the secret
        answer.set_exception(_keyring_error(host, type(error).__name__))


def _keyring_error(host: str, reason: str) -> InputError:
    return InputError(
        f"the keyring can't be asked for {host} ({reason})",
        "unlock it, or put the login into netrc and leave the keyring out: "
        "PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring",
    )

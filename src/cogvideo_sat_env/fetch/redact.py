"""Messages of others without what is secret in the addresses in them: nothing else may be shown, logged or written."""

from __future__ import annotations

import re

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://[^\s'\"<>`]+")


def redact(text: str) -> str:
    """Return `text` (an address, or a message that holds some) without user, password, conda token and query."""
    return _URL.sub(lambda url: url[0] if url["scheme"].lower() == "file" else _hide(url[0]), text)


def _hide(url: str) -> str:
    url = re.sub(r"(?<=://)[^/@]*@", "", url)
    url = re.sub(r"/t/[^/]+(?=/|$)", "/t/<TOKEN>", url)
    return re.sub(r"(?<=\w)\?[^)]*", "?<QUERY>", url)  # signed addresses of object stores

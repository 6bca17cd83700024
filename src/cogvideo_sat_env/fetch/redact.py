"""Addresses without what is secret in them: nothing else may be shown, logged or written."""

from __future__ import annotations

import re


def redact(text: str) -> str:
    """Return `text` (an address, or a message that holds some) without user, password, conda token and query."""
    text = re.sub(r"(?<=://)[^/@\s]*@", "", text)
    text = re.sub(r"/t/[^/\s]+(?=/|$)", "/t/<TOKEN>", text)
    return re.sub(r"(?<=\w)\?[^\s'\")]*", "?<QUERY>", text)  # signed addresses of object stores

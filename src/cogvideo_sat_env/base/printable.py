"""Text for a terminal, whoever wrote it."""

from __future__ import annotations

import re

# escape sequences and what turns the direction of writing; line ends and tabs stay
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return `text` with every control character as its escape."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)

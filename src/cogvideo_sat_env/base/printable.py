"""Text for a terminal, whoever wrote it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with all that isn't seen (control characters, half characters) as its escape; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)

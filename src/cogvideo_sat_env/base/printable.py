"""Text for a terminal, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """Return `text` with all that isn't seen (control characters, half characters) as its escape; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def some(items: Sequence[str], most: int = 5) -> str:
    """Return the first `most` of `items` in a sentence, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more

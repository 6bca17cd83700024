"""What the commands' declarations share."""

from __future__ import annotations


def examples(text: str) -> dict[str, str]:
    """Return the `epilog` of a command: its examples, one a line."""
    return {"epilog": "\b\nExamples:\n" + "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())}

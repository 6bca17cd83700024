"""The commands of docs/cluster.md, for tests that type them: a line that the page doesn't have can't be typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"


@cache
def commands() -> tuple[str, ...]:
    """Return the commands of the page's blocks of shell, without comments; one that goes on in a next line is one."""
    blocks = PAGE.read_text(encoding="utf-8").split("\n```")
    lines = "\n".join(block[3:] for block in blocks if block.startswith("sh\n")).replace("\\\n", " ").splitlines()
    commands = (" ".join(re.sub(r"\s# .*", "", line).split()) for line in lines)
    return tuple(command for command in commands if command)


def typed(line: str, values: Mapping[str, object]) -> str:
    """Return the page's command `line` with `values` for what the page says as an example."""
    assert line in commands(), f"{PAGE.name} has no such command: {line}"
    for example, value in values.items():
        line = line.replace(example, str(value))
    return line

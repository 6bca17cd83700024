"""Where each piece comes from, by variant, as the last lock found it (locks/pieces.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError

FILE = "locks/pieces.json"  # beside environment.yml
_MARK = re.compile(r"\s*\(from pip: [^)]*\)$")  # not in brackets: conda-lock takes those for a selector


@dataclass(frozen=True)
class Placement:
    """Whence a piece comes, "conda" or "pip", and for pip the reason."""

    origin: str
    why: str = ""


Placements = Mapping[str, Mapping[str, Placement]]  # by variant, by name of the piece


def read_placements(root: Path) -> Placements:
    """Return the placements of the project at `root`; none where it has no such file. Raises InputError."""
    path = root / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = {
            variant: {name: Placement(item["from"], item.get("why", "")) for name, item in pieces.items()}
            for variant, pieces in data.items()
        }
        if not all(p.origin in ("conda", "pip") and isinstance(p.why, str) for v in found.values() for p in v.values()):
            raise ValueError("a piece comes from conda or from pip")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not what a lock writes: {error}", f"restore it, or lock again: {satenv('lock')}"
        ) from error
    return found


def placements_file(placements: Placements) -> str:
    """Return the text of locks/pieces.json."""
    content = {
        variant: {
            name: {"from": placement.origin, **({"why": placement.why} if placement.why else {})}
            for name, placement in pieces.items()
        }
        for variant, pieces in placements.items()
    }
    return json.dumps(content, indent=1) + "\n"


def marked(comment: str, placement: Placement | None) -> str:
    """Return a comment of people's with the generated reason at its end, or without one."""
    plain = _MARK.sub("", comment)
    return f"{plain} (from pip: {placement.why})".strip() if placement and placement.why else plain

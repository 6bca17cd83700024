"""Asking a process of our own: py-rattler holds the interpreter while it uploads, and can abort it at its end."""

from __future__ import annotations

import os
import re

from cogvideo_sat_env.base import child
from cogvideo_sat_env.base.errors import SourceError


def ask(module: str, request: dict, doing: str, remedy: str | None = None) -> dict:
    """Run the module `cogvideo_sat_env.package.publish.<module>` on a request and return its answer.

    Raises SourceError that begins with `doing` and has the engine's reason, also when the process crashed.
    """
    found = child.ask(f"package.publish.{module}", request, "it")
    if "error" in found:
        raise SourceError(f"{doing}: {_masked(found['error'])}", remedy)
    return found


def _masked(text: str) -> str:
    """Take the values of secret variables out of an engine's words."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and len(value) > 3:
            text = text.replace(value, f"(value of {name})")
    return text

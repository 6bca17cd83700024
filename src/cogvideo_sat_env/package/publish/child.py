"""Asking a process of our own: py-rattler holds the interpreter while it uploads, and can abort it at its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.lock.solve import child_environment


def ask(module: str, request: dict, doing: str, remedy: str | None = None) -> dict:
    """Run the module `cogvideo_sat_env.package.publish.<module>` on a request and return its answer.

    Raises SourceError that begins with `doing` and has the engine's reason, also when the process crashed.
    """
    child = subprocess.run(
        [sys.executable, "-m", f"cogvideo_sat_env.package.publish.{module}"],
        input=json.dumps(request), capture_output=True, text=True, check=False, env=child_environment(),
    )  # fmt: skip
    try:
        found = json.loads(child.stdout.rpartition("\n")[2])
    except json.JSONDecodeError:
        found = {"error": f"ended with code {child.returncode}: {child.stderr.strip()[-500:]}"}
    if "error" in found:
        raise SourceError(f"{doing}: {_masked(found['error'])}", remedy)
    return found


def _masked(text: str) -> str:
    """Take the values of secret variables out of an engine's words."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and len(value) > 3:
            text = text.replace(value, f"(value of {name})")
    return text


def answer(function: Callable[[dict], dict]) -> None:
    """Answer one request from standard input with one line of JSON, the last on standard output."""
    request = json.load(sys.stdin)
    try:
        found = function(request)
    except Exception as error:  # whatever the engine raises is the reason that the user needs to see
        found = {"error": str(error).strip() or type(error).__name__}
    sys.stdout.write("\n" + json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # past the engine's threads, which may still be ending

"""Child processes: asking one of our own with JSON (an engine can abort its interpreter), and clean variables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import machine
from cogvideo_sat_env.base.errors import SatenvError

_PACKAGE = __name__.partition(".")[0]
_OF_A_PYTHON = r"PYTHON|CONDA_|VIRTUAL_ENV|__PYVENV"


def ask(
    module: str, request: Mapping[str, Any], who: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Have a child run the module `cogvideo_sat_env.<module>` on `request`; return its answer.

    Whatever the child raises, and its death without an answer, comes back as `{"error": …, "kind": …}`: the reason,
    and the name of the exception's class ("" for a death, which the reason tells of `who`). `environment` joins this
    process's variables. Raises SatenvError for a death by the machine: no memory, a limit, a full disk.
    """
    child = subprocess.run(
        [sys.executable, "-m", f"{_PACKAGE}.{module}"],
        input=json.dumps(request), capture_output=True, text=True, errors="replace", check=False,
        env={**child_environment(), **(environment or {})},
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(child.stdout.rpartition("\0")[2])
    except json.JSONDecodeError:
        last = (child.stderr or child.stdout).strip()[-500:]
        death = machine.of_a_death(child.returncode, last)
        if death is not None:
            raise SatenvError(f"{who}: {death.message}", death.remedy) from None
        return {"error": f"{who} ended with code {child.returncode}: {last}", "kind": ""}
    return answer


def answer(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the one request on standard input, behind a NUL: what an engine itself prints comes before."""
    request = json.load(sys.stdin)
    try:
        found = function(request)
    except Exception as error:  # whatever the engine raises is the reason that the user needs to see
        found = {"error": str(error).strip() or type(error).__name__, "kind": type(error).__name__}
    sys.stdout.write("\0" + json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # past the engine's threads, which may still be ending


def child_environment() -> dict[str, str]:
    """Return an environment in which this interpreter finds this program."""
    source = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's variables without those that point another Python elsewhere, and with `extra`."""
    kept = {name: text for name, text in os.environ.items() if not re.match(_OF_A_PYTHON, name)}
    return {**kept, **extra}

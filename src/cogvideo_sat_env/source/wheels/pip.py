"""Running pip on the index that the site has configured, and turning its failures into our errors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.base.child import clean_environment
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import (
    MissingToolError,
    PrefixError,
    SatenvError,
    SolveError,
    SourceError,
    VerificationError,
)

# settings of the user's that are about where to install, or would add what the lock doesn't name
_DROPPED = (
    "PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT",
    "PIP_EDITABLE", "PIP_PRE", "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON",
    "PIP_PLATFORM", "PIP_NO_DEPS", "PIP_REQUIRE_HASHES", "PIP_DRY_RUN", "PIP_REPORT", "PIP_QUIET", "PIP_VERBOSE",
)  # fmt: skip
_CACHE_REMEDY = "check the network and pip's index-url, or use another --source"


def run_pip(python: Path, arguments: Sequence[str], doing: str, **environment: str) -> str:
    """Run this program's pip for the interpreter `python`; return its standard output.

    `doing` says for people what failed. Raises SourceError (index can't be reached, or lacks a file),
    VerificationError (hash mismatch), SolveError (bounds conflict), PrefixError (no space).
    """
    settings = clean_environment(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", LC_ALL="C.UTF-8", **environment)
    for name in _DROPPED:
        settings.pop(name, None)
    settings["PIP_USER"] = "0"  # a configuration file may say otherwise, and pip refuses that in a virtual environment
    child = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *arguments],
        capture_output=True, text=True, check=False, env=settings,
    )  # fmt: skip
    if child.returncode != 0:
        raise _error(doing, f"{child.stdout}\n{child.stderr}")
    return child.stdout


def _error(doing: str, output: str) -> SatenvError:
    if "No module named pip" in output:
        return MissingToolError(f"{doing}: {sys.executable} has no pip", "install pip for that Python")
    if "No space left on device" in output:
        return PrefixError(
            f"{doing}: no space left on the device", "free some space, or move the cache with SATENV_CACHE"
        )
    mismatch = re.search(
        r"^\s*(?P<what>\S.*?)(?: from \S.*)?:\n\s*Expected sha256 (?P<expected>\w{64})\n(?:\s*Expected .*\n)*"
        r"\s*Got\s+(?P<found>\w{64})",
        output,
        re.MULTILINE,
    )
    if mismatch or "DO NOT MATCH THE HASHES" in output:
        detail = output.strip()[-500:]
        if mismatch:
            detail = f"{mismatch['what']}: expected sha256 {mismatch['expected']}, found {mismatch['found']}"
        return VerificationError(
            f"{doing}: {detail}; from the configured package index",
            f"the index serves other bytes than the lock names: ask its owner, or lock anew: {satenv('lock --wheels')}",
        )
    conflict = re.search(r"ResolutionImpossible|conflicting dependencies", output)
    if conflict:
        reason = "\n".join(line for line in output.splitlines() if line.strip() and not line.startswith("WARNING"))
        return SolveError(f"{doing}: pip finds no solution:\n{reason[-2000:]}", "change the bound that pip names")
    unreachable = re.search(
        r"(Connection (?:error|broken|reset|refused)|NewConnectionError|Max retries exceeded|ConnectTimeout|"
        r"ReadTimeout|Read timed out|Name or service not known|Temporary failure in name resolution|"
        r"Failed to establish a new connection|ProxyError|SSLError|\d{3} (?:Client|Server) Error[^\n]*)",
        output,
    )
    missing = re.search(r"No matching distribution found for ([^\s;(]+(?: ?[<>=!~]=?[^\s;(]+)*)", output)
    name = missing[1] if missing else None
    if unreachable:
        wanted = f" (wanted: {name})" if name else ""
        return SourceError(f"{doing}: the package index can't be reached: {unreachable[1]}{wanted}", _CACHE_REMEDY)
    if name:
        return SourceError(
            f"{doing}: the configured package index has no file for {name} that fits this Python and platform",
            "check the name and pip's index-url; a mirror may lack it",
        )
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith("WARNING")]
    return SourceError(f"{doing}: pip failed: " + "\n".join(lines[-8:]), _CACHE_REMEDY)

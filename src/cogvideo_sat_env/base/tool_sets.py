"""Tools that few users need: each set in a virtual environment of its own, hash-pinned into the cache on first use."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

from cogvideo_sat_env.base.errors import MissingToolError
from cogvideo_sat_env.base.paths import cache_dir, project_root


def tool_set(name: str, what: str) -> Path:
    """Return the virtual environment of scripts/NAME-requirements.txt; `what` says in an error what it is for.

    Raises MissingToolError when the package index doesn't give it, InputError outside of a project.
    """
    scripts = project_root() / "scripts"
    pins = scripts / f"{name}-requirements.txt"
    venv = cache_dir() / name / f"{zlib.crc32(pins.read_bytes()):08x}"
    if not (venv / "complete").is_file():
        made = subprocess.run(
            [sys.executable, str(scripts / "bootstrap.py"), str(venv), str(pins)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            raise MissingToolError(f"{what}, can't be had: {made.stderr.strip()}", None)
    return venv

"""Asking git: commands that only read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError

_PATIENCE = 60  # seconds; a file of a revision takes milliseconds, from a slow network file system seconds


def output(folder: Path, *arguments: str) -> bytes:
    """Return what `git -C folder ARGUMENTS` prints, whatever GIT_… variables say.

    Raises MissingToolError without git, InputError with git's own words when it refuses.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    try:
        child = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, timeout=_PATIENCE, check=False, env=environment,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise MissingToolError("git is not on this machine", "install git, or name a file in place of it") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"git -C {folder} {' '.join(arguments)}: {error}", None) from error
    if child.returncode != 0:
        words = child.stderr.decode("utf-8", "replace").strip() or f"ended with code {child.returncode}"
        raise InputError(f"git -C {folder} {' '.join(arguments)}: {words.splitlines()[0]}", None)
    return child.stdout

"""`satenv doctor`: which prefix is meant."""

from __future__ import annotations

import os
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import envs_dir, project_root
from cogvideo_sat_env.doctor.command import report_text, show_check
from cogvideo_sat_env.spec.environment import read_environment

__all__ = ["find_prefix", "report_text", "show_check"]


def find_prefix(prefix: Path | None, name: str | None) -> Path:
    """Return the prefix that is meant: the named one, else the active one, else that of environment.yml's name.

    Raises InputError when two are named, PrefixError when it isn't an environment.
    """
    if prefix is not None and name is not None:
        raise InputError("-p and -n exclude each other", "name the folder or the environment, not both")
    if prefix is None and name is None and os.environ.get("CONDA_PREFIX"):
        prefix = Path(os.environ["CONDA_PREFIX"])
    target = (prefix or envs_dir() / (name or read_environment(project_root() / "environment.yml").name)).absolute()
    if not (target / "bin" / "python").exists():
        raise PrefixError(
            f"{target}: no environment there; expected bin/python below it",
            "make one with `satenv create`, or name another with -p or -n",
        )
    return target

"""`doctor`: which prefix is meant."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import envs_dir, project_root


def find_prefix(prefix: Path | None, name: str | None, default: Callable[[], Path]) -> Path:
    """Return the prefix that is meant: the named one, else the active one, else `default()`.

    Raises InputError when two are named, PrefixError when it isn't an environment.
    """
    if prefix is not None and name is not None:
        raise InputError("-p and -n exclude each other", "name the folder or the environment, not both")
    if name is not None:
        prefix = envs_dir() / name
    elif prefix is None and os.environ.get("CONDA_PREFIX"):
        prefix = Path(os.environ["CONDA_PREFIX"])
    target = Path(os.path.abspath(prefix or default()))
    if not os.path.lexists(target / "bin" / "python"):  # a dangling link is the doctor's finding
        raise PrefixError(
            f"{target}: no environment there; expected the Python of an environment, bin/python below it",
            f"make one: {satenv('create')}, or name another with -p or -n",
        )
    return target


def named_prefix() -> Path:
    """Return the prefix of environment.yml's name, where `create` puts it. Raises InputError outside the project."""
    from cogvideo_sat_env.spec.environment import read_environment  # needs more than the standard library

    return envs_dir() / read_environment(project_root() / "environment.yml").name

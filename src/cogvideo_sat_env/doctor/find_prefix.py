"""`doctor`: which prefix is meant."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import envs_dir, project_root
from cogvideo_sat_env.doctor.children import run_child

_ASK = "import json, sys; print(json.dumps([*sys.version_info[:2], sys.prefix]))"
_LIMIT = 60.0  # seconds for a Python to start, on a cold parallel file system


def find_prefix(prefix: Path | None, name: str | None, default: Callable[[], Path], python: Path | None = None) -> Path:
    """Return the prefix that is meant: that of `python`, the named one, else the active one, else `default()`.

    Raises InputError when two are named, PrefixError when it isn't an environment.
    """
    if python is not None:
        if prefix is not None or name is not None:
            raise InputError("--python excludes -p and -n", "name one Python: an environment's is found by -p or -n")
        return prefix_of(python)
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
            f"make one: {satenv('create')}, or name another with -p or -n, or any Python that has torch with --python",
        )
    return target


def find_python(program: Path) -> Path:
    """Return the path of a Python that is named by its path, or by its name on PATH. Raises PrefixError."""
    found = shutil.which(str(program.expanduser()))
    if found is None:
        raise PrefixError(f"{program}: no such program; expected a Python", "name its path, or load its module first")
    return Path(os.path.abspath(found))  # not resolved: a venv's link is what makes it the venv's


def prefix_of(program: Path) -> Path:
    """Return the sys.prefix of a Python. Raises PrefixError for what isn't a Python >= 3.10 that starts."""
    python = find_python(program)
    done = run_child([str(python), "-c", _ASK], _LIMIT)
    try:
        major, minor, prefix = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError, TypeError):
        words = done.problem or " ".join(done.stderr.split())[-300:] or f"exit code {done.code}"
        raise PrefixError(f"{python}: doesn't answer as a Python does: {words}", "name another with --python") from None
    if (major, minor) < (3, 10):
        raise PrefixError(f"{python}: Python {major}.{minor}; expected 3.10 or newer", "name another with --python")
    return Path(prefix)


def named_prefix() -> Path:
    """Return the prefix of environment.yml's name, where `create` puts it. Raises InputError outside the project."""
    from cogvideo_sat_env.spec.environment import read_environment  # needs more than the standard library

    return envs_dir() / read_environment(project_root() / "environment.yml").name

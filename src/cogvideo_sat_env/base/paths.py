"""Where things are: the project's files, the cache, the prefixes."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError

DATA = Path(__file__).resolve().parents[1] / "data"


def project_root() -> Path:
    """Return the project's root: SATENV_PROJECT, else the checkout that this file lies in, else what pip installed.

    Raises InputError when none of them holds an environment.yml.
    """
    named = variable_path("SATENV_PROJECT")
    root = named.resolve() if named else Path(__file__).resolve().parents[3]
    installed = Path(sys.prefix) / "share" / "cogvideo-sat-env"
    if not named and not (root / "environment.yml").is_file() and (installed / "environment.yml").is_file():
        return installed
    if not (root / "environment.yml").is_file():
        raise InputError(
            f"{root / 'environment.yml'}: no such file; expected the project's environment.yml there",
            "run scripts/satenv of a checkout, or name its folder in SATENV_PROJECT",
        )
    return root


def cache_dir() -> Path:
    """Return the cache directory: SATENV_CACHE, else XDG's, else ~/.cache/cogvideo-sat-env."""
    named = variable_path("SATENV_CACHE")
    if named:
        return named.resolve()
    base = variable_path("XDG_CACHE_HOME") or home("SATENV_CACHE") / ".cache"
    return base.resolve() / "cogvideo-sat-env"


def envs_dir() -> Path:
    """Return where `-n NAME` puts a prefix: SATENV_ENVS, else the conda user's environments folder."""
    named = variable_path("SATENV_ENVS")
    return named.resolve() if named else home("SATENV_ENVS").resolve() / ".conda" / "envs"


def user_path(text: str) -> Path:
    """Return the path that a user wrote, where `~` means a home directory although the shell left it (`--prefix=~/x`).

    Raises InputError for an empty one (an unset variable), and for the home of a user who doesn't exist.
    """
    if not text:
        raise InputError("an empty path; expected a file or a folder", "is a variable in the command unset?")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise InputError(f"{text}: no home directory is known for it", f"./{text} for such a name")
    return Path(expanded)


def variable_path(name: str) -> Path | None:
    """Return the path in the environment variable `name`, None where it is unset or empty."""
    value = os.environ.get(name)
    return user_path(value) if value else None


def home(instead: str) -> Path:
    """Return the user's home directory: HOME, else the password database's.

    Raises InputError, naming the variable `instead` to set, for a user who has none (a container's bare number).
    """
    found = os.path.expanduser("~")
    if not os.path.isabs(found):
        raise InputError("this user has no home directory: HOME is not set", f"name a folder in {instead}")
    return Path(found)


def current_platform() -> str:
    """Return the conda subdir of this machine, e.g. "linux-64".

    Raises InputError for a machine that conda has no subdir for.
    """
    machine = platform.machine().lower()
    known = {
        ("linux", "x86_64"): "linux-64",
        ("linux", "aarch64"): "linux-aarch64",
        ("darwin", "arm64"): "osx-arm64",
        ("darwin", "x86_64"): "osx-64",
        ("win32", "amd64"): "win-64",
    }
    subdir = known.get((sys.platform, machine))
    if subdir is None:
        raise InputError(f"no conda subdir for {sys.platform} on {machine}", "name one with --platform")
    return subdir

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
    named = os.environ.get("SATENV_PROJECT")
    root = Path(named).resolve() if named else Path(__file__).resolve().parents[3]
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
    named = os.environ.get("SATENV_CACHE")
    if named:
        return Path(named).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or home("SATENV_CACHE") / ".cache"
    return Path(base).resolve() / "cogvideo-sat-env"


def envs_dir() -> Path:
    """Return where `-n NAME` puts a prefix: SATENV_ENVS, else the conda user's environments folder."""
    named = os.environ.get("SATENV_ENVS")
    return Path(named).resolve() if named else home("SATENV_ENVS").resolve() / ".conda" / "envs"


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

"""Runs the Python of the prefix that is being made, with nothing of the user's own Python in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.child import clean_environment
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, SatenvError
from cogvideo_sat_env.install.staging import held_fds

_LAYOUT = (
    "import json, sys, sysconfig; "
    "print(json.dumps({'prefix': sys.prefix, 'paths': sysconfig.get_paths(), 'version': sys.version_info[:2], "
    "'tag': sys.implementation.cache_tag, 'build': sys.version}))"
)


@dataclass(frozen=True)
class PrefixPython:
    """The Python of a prefix.

    `paths` are sysconfig's install paths relative to the prefix; `version` is `major.minor`. `cache_tag` is
    in the names of its bytecode; `build` tells it from other builds of that version.
    """

    executable: Path
    root: Path
    version: str
    paths: Mapping[str, str]
    cache_tag: str = ""
    build: str = ""

    def run(self, arguments: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        """Run it in isolated mode with captured text output; the caller judges the return code."""
        return subprocess.run(
            [str(self.executable), "-I", "-B", *arguments], env=prefix_environment(self.root),
            capture_output=True, text=True, check=False, encoding="utf-8", errors="replace",
            pass_fds=held_fds(), **options,
        )  # fmt: skip


def prefix_environment(root: Path) -> dict[str, str]:
    """Return the environment for children of the prefix at `root`: the user's, without PYTHON* and other prefixes.

    pip's own configuration (PIP_*, proxies) stays.
    """
    kept = clean_environment(
        PYTHONNOUSERSITE="1",  # -I and -B are not passed on to the children of a build
        PYTHONDONTWRITEBYTECODE="1",  # what a .pth imports would get bytecode that names the staging directory
        PATH=f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        CONDA_PREFIX=str(root),
        PIP_REQUIRE_VIRTUALENV="0",  # meant for the user's own Pythons; this is a prefix of ours
    )
    kept.pop("SOURCE_DATE_EPOCH", None)  # would change how bytecode is checked
    return kept


def find(root: Path) -> PrefixPython:
    """Return the Python of the prefix at `root`.

    Raises InputError when it has none, SatenvError when it doesn't run here.
    """
    executable = root / "bin" / "python"
    if not executable.exists():
        raise InputError(
            "the lock has no python package, but pip packages or Python packages without bytecode",
            f"add python to environment.yml and make the lock again: {satenv('lock')}",
        )
    probe = PrefixPython(executable, root, "", {})
    child = probe.run(["-c", _LAYOUT])
    if child.returncode != 0:
        raise SatenvError(
            f"the environment's Python doesn't run here: {child.stderr.strip()[-400:]}",
            "check that --platform and the C library (glibc) are those of this machine",
        )
    layout = json.loads(child.stdout)
    relative = {name: os.path.relpath(path, layout["prefix"]) for name, path in layout["paths"].items()}
    build = hashlib.sha256(layout["build"].encode("utf-8")).hexdigest()[:16]
    return PrefixPython(executable, root, "{}.{}".format(*layout["version"]), relative, layout["tag"], build)

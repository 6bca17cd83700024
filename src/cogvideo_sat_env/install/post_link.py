"""Post-link scripts of packages: programs of others that run as the user, so only those that were allowed by name.

They run when the prefix has its final path, because they may write it into files. Until all have ended well the prefix
is marked, so that a killed run leaves none that looks whole.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.errors import SatenvError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install import own_files
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.own_files import PENDING
from cogvideo_sat_env.install.prefix_python import prefix_environment


@dataclass(frozen=True)
class LinkScript:
    """One link script; `path` is relative to the prefix."""

    package: str
    version: str
    build_number: int
    path: str

    @classmethod
    def of(cls, package: ExtractedPackage, path: str) -> LinkScript:
        """Return the script at `path` of `package`."""
        artefact = package.artefact
        return cls(artefact.name, artefact.version, int(package.index.get("build_number") or 0), path)

    @property
    def runs_after_linking(self) -> bool:
        """Whether it is a post-link script; the other kinds are for packages that are removed, or long abolished."""
        return self.path.endswith("post-link.sh") and not self.path.startswith("bin/.post")

    def __str__(self) -> str:
        return f"{self.package}: {self.path}"


def mark_pending(root: Path) -> None:
    """Mark the staged prefix at `root`: its link scripts are still to be run."""
    own_files.write(root, PENDING, b"")


def run(prefix: Path, scripts: Sequence[LinkScript], progress: Progress) -> None:
    """Run `scripts` in `prefix` as conda does, and take the mark away. Raises SatenvError."""
    for script in scripts:
        progress.say(f"Running the link script of {script.package}, as allowed")
        child = subprocess.run(
            ["/bin/sh", str(prefix / script.path)], cwd=prefix, capture_output=True, text=True, check=False,
            errors="replace", stdin=subprocess.DEVNULL,
            env=prefix_environment(prefix) | {
                "PREFIX": str(prefix), "PKG_NAME": script.package, "PKG_VERSION": script.version,
                "PKG_BUILDNUM": str(script.build_number), "ROOT_PREFIX": os.environ.get("CONDA_ROOT", str(prefix)),
            },
        )  # fmt: skip
        messages = prefix / ".messages.txt"
        if messages.is_file():
            progress.say(f"{script.package} says: {messages.read_text(encoding='utf-8', errors='replace').strip()}")
            messages.unlink()
        if child.returncode != 0:
            raise SatenvError(
                f"{script}: ended with {child.returncode}: {(child.stderr or child.stdout).strip()[-400:]}",
                "nothing was changed; leave it out of --allow-link-scripts, and do by hand what it would do",
            )
    (prefix / PENDING).unlink(missing_ok=True)

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
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.own_files import PENDING
from cogvideo_sat_env.install.prefix_python import prefix_environment


@dataclass(frozen=True)
class LinkScript:
    """One link script; `path` is relative to the prefix."""

    package: ExtractedPackage
    path: str

    @property
    def runs_after_linking(self) -> bool:
        """Whether it is a post-link script; the other kinds are for packages that are removed, or long abolished."""
        return self.path.endswith("post-link.sh") and not self.path.startswith("bin/.post")

    def __str__(self) -> str:
        return f"{self.package.artefact.name}: {self.path}"


def run(prefix: Path, scripts: Sequence[LinkScript], progress: Progress) -> None:
    """Run `scripts` in `prefix` as conda does, and take the mark away. Raises SatenvError."""
    for script in scripts:
        artefact, build_number = script.package.artefact, int(script.package.index.get("build_number") or 0)
        progress.say(f"Running the link script of {artefact.name}, as allowed")
        child = subprocess.run(
            ["/bin/sh", str(prefix / script.path)], cwd=prefix, capture_output=True, text=True, check=False,
            errors="replace", stdin=subprocess.DEVNULL,
            env=prefix_environment(prefix) | {
                "PREFIX": str(prefix), "PKG_NAME": artefact.name, "PKG_VERSION": artefact.version,
                "PKG_BUILDNUM": str(build_number), "ROOT_PREFIX": os.environ.get("CONDA_ROOT", str(prefix)),
            },
        )  # fmt: skip
        messages = prefix / ".messages.txt"
        if messages.is_file():
            progress.say(f"{artefact.name} says: {messages.read_text(encoding='utf-8', errors='replace').strip()}")
            messages.unlink()
        if child.returncode != 0:
            raise SatenvError(
                f"{script}: ended with {child.returncode}: {(child.stderr or child.stdout).strip()[-400:]}",
                "nothing was changed; leave it out of --allow-link-scripts, and do by hand what it would do",
            )
    (prefix / PENDING).unlink(missing_ok=True)

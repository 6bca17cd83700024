"""Running pip on the index that the site has configured, and turning its failures into our errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.child import clean_environment
from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.fetch.pip_errors import last_words, pip_error
from cogvideo_sat_env.fetch.proxies import lend_socks
from cogvideo_sat_env.source.wheels.lockfile import write_requirements

# settings of the user's that are about where to install, or would add what the lock doesn't name
_DROPPED = (
    "PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT",
    "PIP_EDITABLE", "PIP_PRE", "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON",
    "PIP_PLATFORM", "PIP_NO_DEPS", "PIP_REQUIRE_HASHES", "PIP_DRY_RUN", "PIP_REPORT", "PIP_QUIET", "PIP_VERBOSE",
)  # fmt: skip
REMEDY = "check the network and pip's index-url, or use another --source"


def run_pip(python: Path, arguments: Sequence[str], doing: str, **environment: str) -> str:
    """Run this program's pip for the interpreter `python`; return its standard output.

    `doing` says for people what failed. Raises SourceError (index can't be reached, or lacks a file),
    VerificationError (hash mismatch), SolveError (bounds conflict), PrefixError (no space).
    """
    settings = clean_environment(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", LC_ALL="C.UTF-8", **environment)
    for name in _DROPPED:
        settings.pop(name, None)
    settings["PIP_USER"] = "0"  # a configuration file may say otherwise, and pip refuses that in a virtual environment
    with scratch_folder("satenv-pip-") as folder:
        child = subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(python), *arguments],
            capture_output=True, text=True, check=False, env={**settings, **lend_socks(folder)},
        )  # fmt: skip
    if child.returncode != 0:
        output = f"{child.stdout}\n{child.stderr}"
        raise pip_error(output, doing) or SourceError(f"{doing}: pip failed: {last_words(output)}", REMEDY)
    return child.stdout


def download(python: Path, pins: Sequence[PipPin], folder: Path, doing: str, *options: str) -> None:
    """Download exactly the files of `pins` into `folder`, with more of pip's `options`; the rest as in run_pip."""
    folder.mkdir(exist_ok=True)
    requirements = write_requirements(pins, folder / "requirements.txt")
    run_pip(
        python,
        # no pip cache: the files are kept by the caller, and 4 GB more on the disk would help nobody
        ["download", "--quiet", "--no-cache-dir", "--no-deps", "--require-hashes", *options,
         "-d", str(folder), "-r", str(requirements)],
        doing,
    )  # fmt: skip

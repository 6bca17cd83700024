"""Our small patches to the checkout's code (recipe/patches/cogvideo/): applied with git, undone with git."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.doctor.children import run_child
from cogvideo_sat_env.doctor.sat.checkout import Checkout

APPLIED, THERE, UNFIT = "applied", "applied before", "does not fit"
_SECONDS = 30.0


@dataclass(frozen=True)
class Patch:
    """One patch; `means` is its first line."""

    file: Path
    means: str


@dataclass(frozen=True)
class PatchResult:
    """What became of a patch: APPLIED, THERE or UNFIT; `reason` is git's."""

    patch: Patch
    status: str
    reason: str = ""


def read_patches(folder: Path) -> list[Patch]:
    """Return the patches in their order. Raises InputError when there are none."""
    files = sorted(folder.glob("*.patch"))
    if not files:
        raise InputError(f"{folder}: no patches there; they are part of the project's checkout", "run it from there")
    return [Patch(file, file.read_text(encoding="utf-8").partition("\n")[0]) for file in files]


def apply(found: Checkout, patches: Sequence[Patch], *, reverse: bool = False) -> list[PatchResult]:
    """Apply the patches that fit and aren't there yet (`reverse`: take out those that are); each whole or not at all.

    Raises MissingToolError without git.
    """
    if shutil.which("git") is None:
        raise MissingToolError("git is not on PATH; patches are applied with `git apply`", "install git")
    results = []
    for patch in reversed(patches) if reverse else patches:
        forward, back = ((), ("-R",)) if not reverse else (("-R",), ())
        reason = _git(found, patch, "--check", *forward)
        if not reason:
            reason = _git(found, patch, *forward)
            results.append(PatchResult(patch, UNFIT if reason else APPLIED, reason))
        elif not _git(found, patch, "--check", *back):
            results.append(PatchResult(patch, THERE))
        else:
            results.append(PatchResult(patch, UNFIT, reason))
    return results


def _git(found: Checkout, patch: Patch, *options: str) -> str:
    """Run `git apply`; return the first line of what is wrong, "" when nothing is."""
    top = found.top or found.folder.parent  # an unpacked archive has the same paths
    env = {**os.environ, "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": str(top.parent)}
    command = ["git", "-c", f"safe.directory={top}", "apply", *options, str(patch.file)]
    done = run_child(command, _SECONDS, env, top)
    if done.code == 0:
        return ""
    return done.problem or next(iter(done.stderr.strip().splitlines()), f"git apply ended with code {done.code}")

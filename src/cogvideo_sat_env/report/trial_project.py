"""A copy of the project in which something is tried, and what this program's commands say of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.child import child_environment
from cogvideo_sat_env.base.errors import EXIT_CODES
from cogvideo_sat_env.base.scratch import scratch_folder

FILES = ("environment.yml", "conda-lock.yml", "docs/install.md")  # what a lock writes
FOLDERS = ("environments", "locks", "recipe", "metadata")
_READ = ("src", "tests", "scripts")  # what `check` looks at besides


@dataclass(frozen=True)
class CommandEnd:
    """How a command ended: its exit code, its JSON (None without), its last words."""

    code: int
    data: Any
    words: str


@contextmanager
def trial_project(root: Path) -> Iterator[Path]:
    """Yield a copy of what a lock of the project at `root` reads and writes; it goes with the block. Raises OSError."""
    with scratch_folder("satenv-trial-") as folder:
        copy = folder / "project"
        copy.mkdir()
        for name in FILES:
            if (root / name).is_file():
                (copy / name).parent.mkdir(exist_ok=True)
                shutil.copy(root / name, copy / name)
        for name in FOLDERS:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name)
        for name in _READ:
            if (root / name).is_dir():
                (copy / name).symlink_to(root / name)
        yield copy


def ask(project: Path, *arguments: str) -> CommandEnd:
    """Run a command of this program, with --json, on the project at `project`."""
    child = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env", *arguments, "--json"],
        capture_output=True, text=True, errors="replace", check=False,
        env={**child_environment(), "SATENV_PROJECT": str(project)},
    )  # fmt: skip
    try:
        data = json.loads(child.stdout)
    except ValueError:
        data = None
    lines = [line.removeprefix("satenv: ") for line in child.stderr.strip().splitlines() if line.startswith("satenv: ")]
    words = lines[-1] if lines else (child.stderr.strip().splitlines() or [""])[-1]
    return CommandEnd(
        child.returncode, data, words or EXIT_CODES.get(child.returncode, f"exit code {child.returncode}")
    )


def changes(root: Path, copy: Path) -> tuple[list[str], list[str]]:
    """Return the files of the copy that differ from the project's or are new, and those that it has no more; sorted."""
    there, here = ({path.relative_to(place).as_posix() for path in _written(place)} for place in (copy, root))
    same = {
        name for name in there if (root / name).is_file() and (root / name).read_bytes() == (copy / name).read_bytes()
    }
    return sorted(there - same), sorted(name for name in here if not (copy / name).is_file())


def _written(root: Path) -> Iterator[Path]:
    yield from (root / name for name in FILES if (root / name).is_file())
    for name in FOLDERS:
        yield from (path for path in (root / name).rglob("*") if path.is_file() and not path.is_symlink())


def take_over(root: Path, copy: Path, names: Sequence[str], gone: Sequence[str]) -> None:
    """Put these files of the copy into the project: all of them are written beside their places before one is renamed.

    Raises OSError; what was renamed before it is put back.
    """
    staged: list[tuple[Path, Path]] = []
    done: list[tuple[Path, Path | None]] = []
    try:
        for name in names:
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
            staged.append((partial, target))
            shutil.copyfile(copy / name, partial)
        for partial, target in [*staged, *((None, root / name) for name in gone)]:
            before = target.with_name(f".{target.name}.{os.getpid()}.before") if target.is_file() else None
            if before:
                os.link(target, before)
            done.append((target, before))
            os.replace(partial, target) if partial else target.unlink()
    except OSError:
        for target, before in reversed(done):
            os.replace(before, target) if before else target.unlink(missing_ok=True)
        raise
    finally:
        for partial, _ in staged:
            partial.unlink(missing_ok=True)
        for _, before in done:
            if before:
                before.unlink(missing_ok=True)

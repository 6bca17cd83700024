"""Which checkout of CogVideo it is: its sat/ folder, its commit, what was changed in it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.children import run_child

KNOWN_GOOD = "e519eced782c08db81f45e5eb40baa45958087ae"  # every training run of it passed in these environments
ENTRY = "train_video.py"
# what makes a folder upstream's sat/: these names, whatever has been added
_MARKS = (ENTRY, "arguments.py", "data_video.py", "diffusion_video.py", "dit_video_concat.py", "sgm", "vae_modules")
_GIT_SECONDS = 20.0


@dataclass(frozen=True)
class Checkout:
    """A folder that upstream's training runs in. `top` is its repository, None for an unpacked archive."""

    folder: Path
    top: Path | None

    @cached_property
    def commit(self) -> str | None:
        """The commit that is checked out; None without git or a repository."""
        return self._git("rev-parse", "HEAD") or None

    @cached_property
    def modified(self) -> tuple[str, ...]:
        """Files below sat/ that differ from the commit, as paths from the repository's top; untracked ones excluded."""
        found = self._git("diff", "--name-only", "HEAD", "--", str(self.folder))
        return tuple(found.splitlines()) if found else ()

    @cached_property
    def newer(self) -> tuple[str, ...] | None:
        """Files below sat/ in which the commit differs from the known good one; None when that isn't in the clone."""
        if self.commit is None or self._git("cat-file", "-t", KNOWN_GOOD) != "commit":
            return None
        found = self._git("diff", "--name-only", KNOWN_GOOD, "HEAD", "--", str(self.folder))
        return tuple((found or "").splitlines())

    def source(self, name: str) -> str:
        """Return the text of a file below sat/, "" where there is none: rules ask what the code does."""
        try:
            return (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def module(self, name: str) -> Path | None:
        """Return the file of a module below sat/, None where there is none."""
        base = self.folder.joinpath(*name.split("."))
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

    def shown(self, path: Path | str) -> str:
        """Return a path as the user would type it in sat/."""
        try:
            return str(Path(path).relative_to(self.folder))
        except ValueError:
            return str(path)

    def _git(self, *arguments: str) -> str | None:
        """Return what git answers, None when it can't."""
        if self.top is None or shutil.which("git") is None:
            return None
        # the user's own settings count for nothing here: no pager, no hooks, no writing of the index
        env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        command = ["git", "-c", f"safe.directory={self.top}", "-C", str(self.top), *arguments]
        done = run_child(command, _GIT_SECONDS, env)
        return done.stdout.strip() if done.code == 0 else None


def find(path: Path) -> Checkout:
    """Return the checkout at `path`: its top folder or the sat/ in it.

    Raises InputError for a folder that is something else, naming what is missing.
    """
    path = path.expanduser()
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise InputError(f"{path}: {what}; expected a checkout of CogVideo, or the sat/ folder in it", _CLONE)
    path = Path(os.path.abspath(path))
    inner = path / "sat" if (path / "sat").is_dir() else path
    for folder in (path, inner):
        missing = [name for name in _MARKS if not (folder / name).exists()]
        if not missing:
            return Checkout(folder, next((p for p in (folder, *folder.parents) if (p / ".git").exists()), None))
    if (path / "sat" / "mpu").is_dir():
        raise InputError(f"{path}: is SwissArmyTransformer, the library; expected a checkout of CogVideo", _CLONE)
    if len(missing) < len(_MARKS):
        raise InputError(
            f"{inner}: lacks {', '.join(missing)} of CogVideo's sat/",
            "restore them with `git checkout -- sat`, or clone it anew",
        )
    raise InputError(f"{path}: holds no CogVideo checkout: neither {ENTRY} nor sat/{ENTRY} is in it", _CLONE)


_CLONE = "git clone https://github.com/zai-org/CogVideo, and name that folder"

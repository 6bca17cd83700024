"""A file of a git revision, written as git writes it: `HEAD~1:conda-lock.yml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base import git
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root


@dataclass(frozen=True)
class RevisionFile:
    """A file of a revision: its bytes, the commit, its path from the repository's root, and that root."""

    content: bytes
    commit: str
    path: str
    repository: Path


def read_revision(text: str) -> RevisionFile:
    """Return what `REVISION:PATH` names, in the repository around the current folder, else in the project's.

    Raises InputError for a revision or a path that isn't there, MissingToolError without git.
    """
    revision, _, path = text.partition(":")
    if not revision or not path or revision.startswith("-"):
        raise InputError(f"{text!r}: expected REVISION:PATH", "write it as git does: HEAD~1:conda-lock.yml")
    folder = _repository()
    try:
        commit = git.output(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except InputError as error:
        raise InputError(
            f"{text}: {folder} has no revision {revision!r}, and there is no such file",
            "name a commit, branch or tag (git log), or a file; in a shallow clone: git fetch --unshallow",
        ) from error
    try:
        root = Path(git.output(folder, "rev-parse", "--show-toplevel").decode().strip())
        if path.startswith(("./", "../")):  # as git does: from the current folder, not from the root
            found = git.output(folder, "ls-tree", "--full-name", "--name-only", "-z", commit, path).decode()
            path = found.split("\0")[0] or path
        return RevisionFile(git.output(root, "cat-file", "blob", f"{commit}:{path}"), commit, path, root)
    except InputError as error:
        raise InputError(
            f"{text}: {revision} has no file {path!r}",
            f"the path is from the root of the repository: git ls-tree -r --name-only {revision}",
        ) from error


def _repository() -> Path:
    here = Path.cwd()
    try:
        git.output(here, "rev-parse", "--show-toplevel")
    except InputError:
        return project_root()
    return here

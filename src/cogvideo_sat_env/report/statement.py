"""Provenance as in-toto statements (v1) with SLSA's provenance (v1): what was made from what, by which tools.

A subject is a file with its SHA-256; a dependency, a file that it was made from. The same files give the same bytes:
no times, no paths of this machine. Signed by signature.py (FILE.sig) or sigstore.py (FILE.sigstore.json).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base import git
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, MissingToolError, VerificationError
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.printable import some

TYPE, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:cogvideo-sat-env:lock-and-pack:1"  # docs/audit.md says what its parameters are
# they decide what is written
_TOOLS = ("conda-lock", "py-rattler", "py-rattler-build", "packaging", "pip", "zstandard")
_MOST = 64_000_000  # bytes of a statement
# what locks and rendered files are made from, and what is rendered
_SOURCES = ("environment.yml", "src/cogvideo_sat_env/data/*.yml", "metadata/**/*", "recipe/recipe.yaml",
            "recipe/patches/**/*", "scripts/*-requirements.txt")  # fmt: skip
_RENDERED = ("conda-lock.yml", "locks/*", "environments/*", "recipe/pins.txt")


@dataclass(frozen=True)
class Statement:
    """A statement that was read: SHA-256 of subjects, and of dependencies that have one, by name."""

    path: Path
    content: bytes
    subjects: Mapping[str, str]
    dependencies: Mapping[str, str]
    parameters: Mapping[str, Any]


def of_project(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return SHA-256 by name of what is rendered in the project at `root`, and of what that is made from."""
    return _files(root, _RENDERED), _files(root, _SOURCES)


def _files(root: Path, patterns: Sequence[str]) -> dict[str, str]:
    paths = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(paths)}


def commit(root: Path) -> str | None:
    """Return the commit of the checkout at `root`, None where it has changes or isn't one."""
    try:
        if git.output(root, "status", "--porcelain", "--untracked-files=no").strip():
            return None
        return git.output(root, "rev-parse", "HEAD").decode("ascii").strip()
    except (InputError, MissingToolError):
        return None


def render(
    subjects: Mapping[str, str], dependencies: Mapping[str, str], parameters: Mapping[str, Any], commit: str | None
) -> bytes:
    """Return the statement. `dependencies` are files of the project, `parameters` what was asked for."""
    resolved = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(dependencies.items())]
    if commit:
        resolved.append({"name": "checkout", "digest": {"gitCommit": commit}})
    statement = {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(subjects.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(parameters),
                "resolvedDependencies": resolved,
            },
            "runDetails": {"builder": {"id": "urn:cogvideo-sat-env:satenv", "version": _versions()}},
        },
    }
    return (json.dumps(statement, indent=1, sort_keys=True) + "\n").encode("utf-8")


def _versions() -> dict[str, str]:
    found = {"satenv": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in _TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # conda-lock is a maintainer's tool
    return found


def is_statement(path: Path) -> bool:
    """Tell whether a file is to be read as a statement: JSON that says to be one."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096).lstrip()
    except OSError:
        return False
    return head.startswith(b"{") and (b'"_type"' in head or path.name.endswith(".intoto.json"))


def read(path: Path) -> Statement:
    """Read the statement at `path`. Raises InputError for what isn't one of satenv's, saying what it is."""
    remedy = f"make it again: {satenv('attest')}"
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MOST + 1)
        if len(content) > _MOST:
            raise ValueError("it is larger than any statement")
        found = json.loads(content)
        kind = found.get("_type") if isinstance(found, dict) else None
        if kind != TYPE or found.get("predicateType") != PREDICATE:
            what = f"{kind} with {found.get('predicateType')}" if kind else "JSON of another kind"
            raise ValueError(f"it is {what}")
        definition = found["predicate"]["buildDefinition"]
        subjects = _digests(found["subject"])
        if not subjects:
            raise ValueError("it has no subject")
        return Statement(
            path, content, subjects, _digests(definition["resolvedDependencies"]), definition["externalParameters"]
        )
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected an in-toto statement", remedy) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path}: expected an in-toto statement (v1) with SLSA provenance (v1); {why}", remedy
        ) from error


def _digests(entries: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        name, sha256 = str(entry["name"]), entry["digest"].get("sha256")
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} leads out of a folder")
        if sha256 is None:
            continue  # a commit
        if found.setdefault(name, str(sha256)) != sha256:
            raise ValueError(f"{name!r} stands twice")
    return found


def check_files(statement: Statement, roots: Sequence[Path]) -> list[str]:
    """Compare all files that a statement names with those below `roots`; return the dependencies that aren't there.

    Raises VerificationError, naming them: subjects that are missing or have other bytes, and dependencies that have
    changed since.
    """
    wrong = [
        why for name, sha256 in statement.subjects.items() if (why := _difference(_find(roots, name), name, sha256))
    ]
    if wrong:
        raise VerificationError(
            f"{statement.path}: {len(wrong)} of its {len(statement.subjects)} subjects are not what it says: "
            f"{some(wrong)}",
            "take these files from where the statement comes from, or have a statement about the present ones",
        )
    there = {name: path for name in statement.dependencies if (path := _find(roots, name))}
    stale = [name for name, path in there.items() if sha256_file(path) != statement.dependencies[name]]
    if stale:
        raise VerificationError(
            f"{statement.path}: is out of date: {some(stale)} changed since what it is about was made",
            f"make that again ({satenv('lock')}), then the statement ({satenv('attest')})",
        )
    return [name for name in statement.dependencies if name not in there]


def _find(roots: Sequence[Path], name: str) -> Path | None:
    return next((root / name for root in roots if (root / name).is_file()), None)


def _difference(path: Path | None, name: str, sha256: str) -> str | None:
    if path is None:
        return f"{name} is missing"
    found = sha256_file(path)
    return None if found == sha256 else f"{name} has SHA-256 {found[:16]}…, not {sha256[:16]}…"


def check_file(statement: Statement, path: Path) -> str:
    """Return the name under which a statement has the file at `path`. Raises VerificationError where it hasn't it."""
    sha256 = sha256_file(path)
    names = [name for name, digest in statement.subjects.items() if digest == sha256]
    if names:
        return names[0]
    there = [name for name in statement.subjects if name.rpartition("/")[2] == path.name]
    about = f"has {there[0]} with SHA-256 {statement.subjects[there[0]]}" if there else "has no subject of that name"
    raise VerificationError(
        f"{path}: SHA-256 {sha256} is not in {statement.path}, which {about}",
        "the file or the statement is of another day: have both from one source",
    )

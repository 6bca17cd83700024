"""Who vouches for what: statements about the project's locks, bundles, channels and files, and whether they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.bundle.container import open_bundle
from cogvideo_sat_env.bundle.read_inventory import is_bundle
from cogvideo_sat_env.bundle.verify_bundle import verify as prove
from cogvideo_sat_env.report import signature, sigstore, statement

DEFAULT = "provenance.intoto.json"


@dataclass(frozen=True)
class Trust:
    """Who is believed: `identity` (None: anybody) of a file of `signers`, or `identity` by a sigstore issuer."""

    signers: Path | None
    identity: str | None = None
    issuer: str | None = None

    def signer(self, path: Path, content: bytes, kind: str) -> str:
        """Return who signed `content`, which stands for `path`. Raises VerificationError, InputError."""
        if self.issuer and self.identity:
            return sigstore.check(path, self.identity, self.issuer)
        if self.signers is None:
            raise InputError(
                f"{path}: no signers given", "name a file of allowed signers (man ssh-keygen): --signers FILE"
            )
        return signature.check(path, content, self.signers, self.identity, kind)


@dataclass(frozen=True)
class Verified:
    """What was found right. `compared` counts files, `absent` names inputs that couldn't be compared."""

    path: Path
    signer: str
    what: str
    compared: int
    absent: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {"file": str(self.path), "signed_by": self.signer, "finding": self.what, "compared": self.compared,
                "not_compared": list(self.absent)}  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        absent = f"; {len(self.absent)} of its inputs are not here to be compared" if self.absent else ""
        return f"{self.path}: signed by {self.signer}; {self.what}{absent}\n"


def attest(root: Path, paths: Sequence[Path], out: Path) -> bytes:
    """Write a statement about the project's locks and rendered files, and about `paths`, into `out`; return it.

    Raises InputError for a path that isn't there, or two files of one name.
    """
    subjects, dependencies = statement.of_project(root)
    parameters: dict[str, Any] = {"spec": "environment.yml"}
    for path in paths:
        found, facts = _subjects(path, root)
        for name, sha256 in found.items():
            if subjects.setdefault(name, sha256) != sha256:
                raise InputError(f"{path}: another file is {name} in this statement", "make two statements of them")
        parameters |= facts
    content = statement.render(subjects, dependencies, parameters, statement.commit(root))
    write_atomically(out, content)
    return content


def _subjects(path: Path, root: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return SHA-256 by name of the files that are the bundle, channel or file at `path`, and what a bundle says."""
    inside = path.resolve().is_relative_to(root.resolve())
    name = path.resolve().relative_to(root.resolve()).as_posix() if inside else path.name
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        if not any(file.name == "repodata.json" for file in files):
            raise InputError(f"{path}: is no channel: no repodata.json below it", "name a channel's folder, or files")
        return {f"{name}/{file.relative_to(path).as_posix()}": sha256_file(file) for file in files}, {}
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a bundle, a channel's folder or a file", None)
    found = {name: sha256_file(path)}
    if not is_bundle(path):
        return found, {}
    manifest = open_bundle(path).manifest
    for volume in manifest["volumes"]:
        found[str(Path(name).with_name(volume["name"]))] = sha256_file(path.with_name(volume["name"]))
    parts = {variant: part["lock_sha256"] for variant, part in manifest["parts"].items()}
    return found, {name: {"source": manifest["source"], "tool_version": manifest["tool_version"], "locks": parts}}


def verify(path: Path, trust: Trust, named: Path | None = None) -> Verified:
    """Check the statement, bundle or file at `path`; a file by the statement `named`, or one that lies beside it.

    Raises VerificationError (not signed, by somebody else, other bytes, out of date), InputError.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a statement, a bundle, or a file that a statement names", None
        )
    if statement.is_statement(path):
        return _verify_statement(path, trust)
    if is_bundle(path) and named is None and signature.signature_path(path).is_file():
        opened = open_bundle(path)
        signer = trust.signer(path, opened.tail, signature.BUNDLE)
        prove(opened)
        return Verified(path, signer, f"{len(opened.members):,} members, every byte as in its manifest", 1)
    place = named or _statement_of(path)
    found = statement.read(place)
    signer = trust.signer(place, found.content, signature.STATEMENT)
    name = statement.check_file(found, path)
    return Verified(path, signer, f"is {name} of {place}", 1)


def _statement_of(path: Path) -> Path:
    folders = [path.absolute().parent, *_project()]
    places = [path.with_name(f"{path.name}.intoto.json"), *(folder / DEFAULT for folder in folders)]
    there = next((place for place in places if place.is_file()), None)
    if there is None:
        raise VerificationError(
            f"{path}: is not signed: there is no {path.name}.intoto.json or {DEFAULT} beside it",
            "name the statement about it: --statement FILE",
        )
    return there


def _project() -> list[Path]:
    try:
        return [project_root()]
    except InputError:
        return []


def _verify_statement(path: Path, trust: Trust) -> Verified:
    found = statement.read(path)
    signer = trust.signer(path, found.content, signature.STATEMENT)
    absent = statement.check_files(found, [path.absolute().parent, *_project()])
    count = len(found.subjects) + len(found.dependencies) - len(absent)
    what = f"{len(found.subjects)} subjects as it says, {len(found.dependencies) - len(absent)} inputs unchanged"
    return Verified(path, signer, what, count, absent)

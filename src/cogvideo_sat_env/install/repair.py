"""Puts a prefix right after a staged copy of what it should be: only what differs is touched, file by file."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.install import receipt
from cogvideo_sat_env.install.package_manifest import walk

_THEIRS = frozenset({"conda-meta/history", "conda-meta/state"})  # conda's log, and the user's own variables


@dataclass(frozen=True)
class Repaired:
    """One thing that was put right, and what was wrong with it."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} ({self.why})"


def repair(prefix: Path, staged: Path, old: Mapping[str, Any]) -> list[Repaired]:
    """Make every file of `staged` the same in `prefix`, by renames, and remove what conda owns beside it.

    `old` is the receipt of `prefix`: a file that still has the hash in it is right (a wheel that was built anew may
    differ). Files of the user's own, and packages that the lock doesn't name, stay.
    """
    repaired: list[Repaired] = []
    files = dict(old["files"])
    wanted = {name for name, _ in walk(str(staged))} - {receipt.PATH}
    records = {record["name"]: name for name, record in _records(staged)}
    for name in sorted(wanted):
        why = _difference(staged / name, prefix / name, name, files.get(name))
        if why is None:
            continue
        _put(staged / name, prefix / name)
        repaired.append(Repaired(name, why))
    repaired += _remove_extra(prefix, records, wanted)
    new = json.loads((staged / receipt.PATH).read_text(encoding="utf-8"))
    put = {entry.path for entry in repaired}
    new["files"] = {name: entry if name in put else files.get(name, entry) for name, entry in new["files"].items()}
    if any(new[key] != old.get(key) for key in ("files", "packages", "pip")):
        # last, whole or not at all: until then the old one tells that something is missing
        receipt.write(staged, {**old, **{key: new[key] for key in ("files", "packages", "pip")}})
        _put(staged / receipt.PATH, prefix / receipt.PATH)
    return repaired


def _difference(right: Path, found: Path, name: str, noted: Mapping[str, Any] | None) -> str | None:
    """Return what is wrong with `found`, or None."""
    try:
        there = os.lstat(found)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    should = os.lstat(right)
    if (there.st_dev, there.st_ino) == (should.st_dev, should.st_ino) or name in _THEIRS:
        return None
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(should.st_mode):
        return "not of the right kind"
    if stat.S_ISLNK(there.st_mode):
        return None if os.readlink(found) == os.readlink(right) else "leads elsewhere"
    if stat.S_IMODE(there.st_mode) != stat.S_IMODE(should.st_mode):
        return "other permissions"
    if noted and there.st_size == noted.get("size") and sha256_file(found) == noted.get("sha256"):
        return None
    if name.startswith("conda-meta/") and _same_record(right, found):
        return None
    return None if there.st_size == should.st_size and sha256_file(found) == sha256_file(right) else "changed"


def _same_record(right: Path, found: Path) -> bool:
    """Whether two conda-meta records say the same of the prefix; where the package was cached is of no account."""
    try:
        one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (right, found))
        for record in (one, other):
            record.pop("extracted_package_dir", None)
            record.pop("link", None)
        return one == other
    except (ValueError, AttributeError, UnicodeDecodeError):
        return False


def _put(source: Path, target: Path) -> None:
    """Rename `source` to `target`, moving away a folder in its place or a file in place of one of its folders."""
    for folder in reversed(target.parents):
        if os.path.lexists(folder) and not folder.is_dir():
            folder.unlink()
            break
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        target.rename(aside)
        os.replace(source, target)
        shutil.rmtree(aside)
        return
    os.replace(source, target)


def _remove_extra(prefix: Path, right: Mapping[str, str], wanted: set[str]) -> list[Repaired]:
    """Remove what other builds of the lock's packages own in `prefix`: their records, and the files only they own.

    `right` are the names of the lock's records by package.
    """
    extra = [(name, record) for name, record in _records(prefix) if right.get(record["name"], name) != name]
    others = {
        str(path)
        for name, record in _records(prefix)
        if record["name"] not in right
        for path in record.get("files", ())
    }
    removed = []
    for name, record in extra:
        gone = [str(path) for path in record.get("files", ()) if path not in wanted and path not in others]
        for path in gone:
            inside = prefix / path
            is_folder = inside.is_dir() and not inside.is_symlink()
            if ".." not in inside.parts and os.path.lexists(inside) and not is_folder:
                inside.unlink()
                removed.append(Repaired(path, f"of {record['name']} {record.get('version')}, which is not in the lock"))
        (prefix / "conda-meta" / name).unlink()
        removed.append(Repaired(f"conda-meta/{name}", "not in the lock"))
    return removed


def _records(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((root / "conda-meta").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # damaged: one of the lock's was put right already, another is not ours to judge
        if isinstance(record, dict) and isinstance(record.get("name"), str):
            yield path.name, record

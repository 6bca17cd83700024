"""Puts a prefix right after a staged copy of what it should be: only what differs is touched, file by file."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.install import receipt, staging
from cogvideo_sat_env.install.added import Distribution, distributions, remove_empty, site_of, strangers
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.install.package_manifest import walk

_THEIRS = frozenset({"conda-meta/history", "conda-meta/state"})  # conda's log, and the user's own variables


def repair(outcome: InstallOutcome, staged: Path, old: Mapping[str, Any]) -> InstallOutcome:
    """Make every file of `staged` the same in the prefix, by renames, and remove what took the place of its packages.

    Return `outcome`, which names the prefix, with what was done. `old` is the receipt of the prefix: a file that still
    has the hash in it is right (a wheel that was built anew may differ), unless the prefix was moved. Other builds that
    conda put in place of the lock's and other versions that pip did are removed with every file of theirs. What pip
    added, and files of no package where Python imports from, are moved into a folder beside the prefix. Packages that
    conda added and the user's other files stay.
    """
    prefix = outcome.prefix
    moved = receipt.moved_from(prefix, old) is not None
    files = {} if moved else dict(old["files"])
    wanted = {name for name, _ in walk(str(staged))} - {receipt.PATH}
    records = {record["name"]: name for name, record in _records(staged)}
    found = {
        name: why for name in sorted(wanted) if (why := _difference(staged / name, prefix / name, files.get(name)))
    }
    for name in found:
        _put(staged / name, prefix / name)
    others = {
        str(path): record["name"]
        for name, record in _records(prefix)
        if record["name"] not in records
        for path in record.get("files", ())
    }
    site = site_of(wanted)
    removed, added = _remove_replaced(prefix, staged, site, wanted, others) if site else ({}, [])
    removed |= _remove_extra(prefix, records, wanted | others.keys())
    foreign = {path for package in added for path in package.files} - wanted - others.keys()
    there = strangers(prefix, {*wanted, receipt.PATH, *others}, site, foreign)
    removed |= {path: why for path, why in there.stale.items() if _unlink(prefix / path)}
    folder = _move_aside(prefix, there.aside)
    remove_empty(prefix, [*removed, *there.aside])
    _note(prefix, staged, old, files, found)
    return replace(
        outcome,
        status="repaired" if found or removed or there.aside else "up-to-date",
        repaired=tuple(f"{path} ({why})" for path, why in (*found.items(), *removed.items())),
        added=tuple(sorted({*others.values(), *(f"{package.name} {package.version} (pip)" for package in added)})),
        aside=tuple(there.aside),
        aside_folder=str(folder or ""),
        unowned=tuple(there.kept),
    )


def _move_aside(prefix: Path, paths: Collection[str]) -> Path | None:
    """Move `paths` into a new folder beside `prefix`, under the same names; return it, None where there are none."""
    if not paths:
        return None
    folder = staging.sibling(prefix, staging.ASIDE)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).rename(folder / path)
    return folder


def _note(prefix: Path, staged: Path, old: Mapping[str, Any], files: Mapping[str, Any], put: Collection[str]) -> None:
    """Bring the receipt to what is there now; last, whole or not at all: until then the old one tells that it isn't."""
    new = json.loads((staged / receipt.PATH).read_text(encoding="utf-8"))
    new["files"] = {name: entry if name in put else files.get(name, entry) for name, entry in new["files"].items()}
    keys = ("files", "packages", "pip", "prefix")
    if any(new[key] != old.get(key) for key in keys):
        receipt.write(staged, {**old, **{key: new[key] for key in keys}})
        _put(staged / receipt.PATH, prefix / receipt.PATH)


def _remove_replaced(
    prefix: Path, staged: Path, site: str, wanted: Collection[str], others: Collection[str]
) -> tuple[dict[str, str], list[Distribution]]:
    """Remove the files of other versions of the staged distributions; return them, and why, and those added."""
    ours = {package.name for package in distributions(staged, site)}
    # what was renamed into place is no longer in the staged folder, whose names are known all the same
    found = list(distributions(prefix, site))
    ours |= {package.name for package in found if f"{package.info}/METADATA" in wanted}
    there = [p for p in found if f"{p.info}/METADATA" not in wanted and f"{p.info}/METADATA" not in others]
    added = [p for p in there if p.name not in ours]
    kept = {*wanted, *others, *(path for package in added for path in package.files)}
    removed = {}
    for package in (p for p in there if p.name in ours):
        removed |= _remove(prefix, package.files, kept, f"{package.name} {package.version}")
    return removed, added


def _remove(prefix: Path, paths: Iterable[str], kept: Collection[str], owner: str) -> dict[str, str]:
    why = f"of {owner}, which is not in the lock"
    gone = (path for path in dict.fromkeys(paths) if path not in kept and ".." not in path.split("/"))
    return {path: why for path in gone if _unlink(prefix / path)}


def _unlink(path: Path) -> bool:
    if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
        return False
    path.unlink()
    return True


def _difference(right: Path, found: Path, noted: Mapping[str, Any] | None) -> str | None:
    """Return what is wrong with `found`, or None."""
    try:
        there = os.lstat(found)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    should = os.lstat(right)
    if (there.st_dev, there.st_ino) == (should.st_dev, should.st_ino) or f"{found.parent.name}/{found.name}" in _THEIRS:
        return None
    if stat.S_IFMT(there.st_mode) != stat.S_IFMT(should.st_mode):
        return "not of the right kind"
    if stat.S_ISLNK(there.st_mode):
        return None if os.readlink(found) == os.readlink(right) else "leads elsewhere"
    if stat.S_IMODE(there.st_mode) != stat.S_IMODE(should.st_mode):
        return "other permissions"
    if noted and there.st_size == noted.get("size") and sha256_file(found) == noted.get("sha256"):
        return None
    if found.parent.name == "conda-meta" and _same_record(right, found):
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


def _remove_extra(prefix: Path, right: Mapping[str, str], kept: Collection[str]) -> dict[str, str]:
    """Remove what other builds of the lock's packages own in `prefix`: records, and files only they own. Return why.

    `right` are the names of the lock's records by package, `kept` the files of the lock's and of other packages.
    """
    removed = {}
    for name, record in list(_records(prefix)):
        if right.get(record["name"], name) == name:
            continue
        removed |= _remove(prefix, map(str, record.get("files", ())), kept, f"{record['name']} {record.get('version')}")
        (prefix / "conda-meta" / name).unlink()
        removed[f"conda-meta/{name}"] = "not in the lock"
    return removed


def _records(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((root / "conda-meta").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # damaged: one of the lock's was put right already, another is not ours to judge
        if isinstance(record, dict) and isinstance(record.get("name"), str):
            yield path.name, record

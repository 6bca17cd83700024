"""Applies the patches of recipe/patches to a wheel before it is installed: strictly, every line must be as expected.

Standard library only: recipe/build.py imports it in the Python of a build environment.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


class PatchError(ValueError):
    """A file that is no patch, or one that doesn't fit what it is applied to."""


def patches_of(recipe: Path, name: str) -> list[Path]:
    """Return the patches of recipe/ for the distribution or package `name` (any spelling), in order."""
    return sorted((recipe / "patches" / re.sub(r"[-_.]+", "-", name).lower()).glob("*.patch"))


def patch_wheel(wheel: Path, patches: Sequence[Path]) -> None:
    """Rewrite `wheel` with the unified diffs of `patches` (paths a/… and b/…) applied, and its RECORD with them.

    Raises PatchError that names the patch and the line; then the wheel is as it was.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    contents = {info.filename: data for info, data in members}
    changed: set[str] = set()
    for patch in patches:
        for name, hunks in read_patch(patch).items():
            if name not in contents:
                raise PatchError(f"{patch.name}: {wheel.name} has no {name}")
            text = contents[name].decode("utf-8")
            contents[name] = apply(text, hunks, f"{patch.name}: {name}").encode("utf-8")
            changed.add(name)
    (record,) = (name for name in contents if name.endswith(".dist-info/RECORD"))
    rows = contents[record].decode("utf-8").splitlines()
    contents[record] = "".join(f"{_row(row, contents, changed)}\n" for row in rows).encode("utf-8")
    partial = wheel.with_name(f".{wheel.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, _ in members:
            archive.writestr(info, contents[info.filename])
    partial.replace(wheel)


def _row(row: str, contents: dict[str, bytes], changed: set[str]) -> str:
    name = row.rsplit(",", 2)[0].strip('"')
    if name not in changed:
        return row
    digest = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(contents[name])}"


def read_patch(patch: Path) -> dict[str, list[tuple[int, list[str]]]]:
    """Return file -> hunks (line of the old file, lines with their mark) of a unified diff. Raises PatchError."""
    files: dict[str, list[tuple[int, list[str]]]] = {}
    hunks: list[tuple[int, list[str]]] | None = None
    for line in patch.read_text(encoding="utf-8").splitlines():
        if line.startswith("+++ b/"):
            hunks = files.setdefault(line[len("+++ b/") :].split("\t")[0], [])
        elif line.startswith("--- "):
            hunks = None
        elif hunks is not None and (found := _HUNK.match(line)):
            hunks.append((int(found[1]), []))
        elif hunks:
            hunks[-1][1].append(line or " ")
    if not files or not all(files.values()):
        raise PatchError(f"{patch.name}: no hunk found; expected a unified diff")
    return files


def apply(text: str, hunks: Sequence[tuple[int, list[str]]], where: str) -> str:
    """Return `text` with the hunks applied. Raises PatchError when a line isn't what the patch expects there."""
    lines = text.split("\n")
    shift = 0
    for start, body in hunks:
        old = [line[1:] for line in body if line[0] in " -"]
        new = [line[1:] for line in body if line[0] in " +"]
        at = start - 1 + shift
        if lines[at : at + len(old)] != old:
            raise PatchError(f"{where}: line {start} is not what the patch expects: it was made for another version")
        lines[at : at + len(old)] = new
        shift += len(new) - len(old)
    return "\n".join(lines)

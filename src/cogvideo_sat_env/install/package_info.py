"""What a package says of itself (info/*.json) is checked field by field before any of it is used.

A library that reads it later must find nothing that it would refuse: rattler fetches a package anew that it can't read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.install import entry_points

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Check = tuple[str, Callable[[Any], bool]]  # what is expected, in words, and whether a value is that


def _one_of(*values: object) -> Check:
    named = ", ".join("none" if value is None else repr(value) for value in values)
    return f"one of {named}", lambda value: any(
        value is each or (value == each and each is not None) for each in values
    )


def _optional(check: Check) -> Check:
    return f"{check[0]}, or none", lambda value: value is None or check[1](value)


_TEXT: Check = ("a text", lambda value: isinstance(value, str) and bool(value) and not _CONTROL.search(value))
_TEXTS: Check = ("a list of texts", lambda value: isinstance(value, list) and all(_TEXT[1](item) for item in value))
_COUNT: Check = ("a number", lambda value: type(value) is int and 0 <= value < 2**63)
_HASH: Check = ("a SHA-256", lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None)
_FLAG: Check = ("true or false", lambda value: isinstance(value, bool))
_PATH: Check = (
    "a path inside the prefix",
    lambda value: _TEXT[1](value) and not value.startswith("/") and ".." not in value.split("/"),
)
_NAME: Check = ("a path", _TEXT[1])  # whether it leads out is asked when it is compared with what there is

_INDEX: Mapping[str, Check] = {
    "name": _TEXT, "version": _TEXT, "build": _TEXT, "build_number": _COUNT, "subdir": _optional(_TEXT),
    "depends": _optional(_TEXTS), "constrains": _optional(_TEXTS), "noarch": _one_of(None, "python", "generic"),
    "python_site_packages_path": _optional(_PATH),
    "timestamp": _optional(("a time", lambda value: isinstance(value, (int, float)) and 0 <= value < 1e15)),
}  # fmt: skip
_ENTRY: Mapping[str, Check] = {
    "_path": _NAME, "path_type": _one_of("hardlink", "softlink", "directory"), "sha256": _optional(_HASH),
    "size_in_bytes": _optional(_COUNT), "no_link": _optional(_FLAG), "file_mode": _one_of(None, "text", "binary"),
    "prefix_placeholder": _optional(_TEXT),
}  # fmt: skip


def check(folder: Path, package: str) -> Mapping[str, Any]:
    """Check info/index.json, paths.json and link.json of the extracted `package` in `folder`; return the first.

    Raises VerificationError naming package, file and field.
    """
    index = _read(folder, package, "index.json")
    _fields(f"{package}: info/index.json", index, _INDEX)
    if (folder / "info" / "paths.json").exists():  # very old packages have none
        listed = _read(folder, package, "paths.json")
        where = f"{package}: info/paths.json"
        _field(where, "paths_version", listed.get("paths_version", 1), _one_of(1))
        _field(where, "paths", listed.get("paths"), ("a list", lambda value: isinstance(value, list)))
        for number, entry in enumerate(listed["paths"]):
            _entry(where, number, entry)
    if (folder / "info" / "link.json").exists():
        _link(package, _read(folder, package, "link.json"))
    return index


def _entry(where: str, number: int, entry: Any) -> None:
    place = f"{where}: entry {number}"
    if not isinstance(entry, dict):
        raise _wrong(place, "it", entry, "a mapping")
    if isinstance(entry.get("_path"), str):
        place = f"{where}: {entry['_path']!r}"
    _fields(place, entry, _ENTRY)
    if entry.get("prefix_placeholder") and entry.get("file_mode") is None:
        raise _wrong(place, "file_mode", None, "'text' or 'binary', because it has a prefix_placeholder")


def _link(package: str, link: Mapping[str, Any]) -> None:
    where = f"{package}: info/link.json"
    noarch = link.get("noarch")
    if noarch is None:
        return
    kinds = _one_of("python", "generic")
    _field(where, "noarch", noarch, ("a mapping", lambda value: isinstance(value, dict)))
    _field(where, "noarch.type", noarch.get("type"), kinds)
    points = noarch.get("entry_points")
    _field(where, "noarch.entry_points", points, _optional(_TEXTS))
    for point in points or ():
        try:
            entry_points.parse(point)
        except ValueError as error:
            raise VerificationError(f"{where}: noarch.entry_points: {error}", _REMEDY) from error


_REMEDY = "the package is malformed: don't use this build of it, and tell its channel"


def _read(folder: Path, package: str, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / "info" / name).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise VerificationError(f"{package}: info/{name}: can't be read: {error}", _REMEDY) from error
    if not isinstance(found, dict):
        raise _wrong(f"{package}: info/{name}", "it", found, "a mapping")
    return found


def _fields(where: str, found: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    for field, wanted in checks.items():
        _field(where, field, found.get(field), wanted)


def _field(where: str, field: str, value: Any, wanted: Check) -> None:
    if not wanted[1](value):
        raise _wrong(where, field, value, wanted[0])


def _wrong(where: str, field: str, value: Any, wanted: str) -> VerificationError:
    shown: Sequence[Any] | Any = value if not isinstance(value, str) else value[:80]
    return VerificationError(f"{where}: {field} is {str(shown)[:80]!r}; expected {wanted}", _REMEDY)

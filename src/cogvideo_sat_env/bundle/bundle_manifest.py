"""The manifest of a bundle: read from bytes that may be anybody's, so that nothing after it meets a surprise.

Runs from inside a bundle: Python's standard library only.
"""

from __future__ import annotations

import json
import re
from typing import Any

from cogvideo_sat_env.base.errors import InputError

SCHEMA = 1


# a type; [shape] for a list; a dict of shapes by key; {str: shape} for any keys; (shape, None) where null may be, too
_MEMBER = {"path": str, "size": int, "sha256": str, "offset": (int, None), "executable": bool}
_CONDA = {
    "path": str, "url": str, "sha256": str, "md5": str, "size": int, "depends": [str], "installed_bytes": int,
}  # fmt: skip
_PIP = {"name": str, "version": str, "file_name": str, "sha256": str, "size": (int, None)}
_PART = {
    "platform": str, "lock": str, "lock_sha256": str, "channels": [str], "conda": [_CONDA], "pip": [_PIP],
    "installed_bytes": int, "python": str,
}  # fmt: skip
_MANIFEST = {
    "tool_version": str, "source": str, "parts": {str: _PART}, "tool": {"key": str, "wheels": {str: [str]}},
    "specs": [str], "not_provided": [{"name": str, "spec": str, "reason": str}], "members": [_MEMBER],
    "data_size": int, "framing_sha256": str, "volumes": [{"name": str, "size": int}],
    "base": ({"name": str, "id": str}, None),
}  # fmt: skip
_KINDS = {str: "text", int: "a count", bool: "true or false"}


def parse(content: bytes, name: str) -> dict[str, Any]:
    """Return the manifest of the bundle `name`.

    Raises ValueError, saying what is wrong with it, and InputError for another schema.
    """
    try:
        manifest = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise ValueError("expected an object with a schema")
    if manifest["schema"] != SCHEMA:
        raise InputError(
            f"{name}: a bundle of schema {manifest['schema']}; this program reads {SCHEMA}",
            f"use the bundle's own program: python3 {name.rpartition('/')[2]}",
        )
    _require(manifest, _MANIFEST, "the manifest")
    _require_members(manifest)
    _require(manifest.get("made", 0), int, "the manifest, 'made'")  # bundles of old versions have none
    if not re.fullmatch(r"\d+", manifest["tool"]["key"]):
        raise ValueError("the tool's key is no number")
    for volume in manifest["volumes"]:
        if not re.fullmatch(r"[^/\0]+", volume["name"]) or volume["name"] in (".", ".."):
            raise ValueError(f"{volume['name']!r} is no volume")
    return manifest


def _require(value: object, shape: object, where: str) -> None:
    """Raise ValueError unless `value` has the shape; keys beyond it are left alone."""
    if isinstance(shape, tuple):
        if value is not None:
            _require(value, shape[0], where)
        return
    kind = type(shape) if isinstance(shape, (dict, list)) else shape
    # a bool is an int to Python, and no count is negative
    fits = type(value) is kind and not (kind is int and value < 0) and not (kind is str and "\0" in value)
    if not fits:
        raise ValueError(f"{where}: expected {_KINDS.get(kind, 'an object' if kind is dict else 'a list')}")
    if isinstance(shape, dict):
        shapes = dict.fromkeys(value, shape[str]) if str in shape else shape
        for key, inner in shapes.items():
            if key not in value:
                raise ValueError(f"{where} lacks {key!r}")
            _require(value[key], inner, f"{where}, {key!r}")
    elif isinstance(shape, list):
        for number, inner in enumerate(value):
            _require(inner, shape[0], f"{where}, item {number}")


def _require_members(manifest: dict[str, Any]) -> None:
    seen = set()
    for entry in manifest["members"]:
        path, offset = entry["path"], entry["offset"]
        parts = path.split("/")
        if path.startswith("/") or any(p in ("", ".", "..") or "\\" in p for p in parts):
            raise ValueError(f"{path!r} leads out of a folder")
        if path in seen:
            raise ValueError(f"{path!r} stands twice")
        seen.add(path)
        if not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
            raise ValueError(f"{path!r} has no SHA-256")
        if offset is None and manifest["base"] is None:
            raise ValueError(f"{path!r} is in no base and has no place")
        if offset is not None and offset + entry["size"] > manifest["data_size"]:
            raise ValueError(f"{path!r} lies beyond the end")
    for wheel in (name for names in manifest["tool"]["wheels"].values() for name in names):
        if wheel not in seen:
            raise ValueError(f"the tool's {wheel!r} is no member")

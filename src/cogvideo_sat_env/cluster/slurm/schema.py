"""Reading a YAML file by a JSON Schema: the words that the schema of a site file uses, with messages for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError

_KINDS: dict[str, tuple[type, str]] = {
    "object": (dict, "keys with values"),
    "array": (list, "a list"),
    "string": (str, "a text"),
    "integer": (int, "a whole number"),
}


def read(path: Path, what: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's values; `what` is what the user calls it. An empty file has none.

    Raises InputError for the first value that the schema forbids, with file, line and what is expected.
    """
    found, lines = yamlfile.load(path, what)
    content = {} if found is None else found
    _check(content, schema, (), path, lines)
    return dict(content)


def _check(value: Any, schema: Mapping[str, Any], at: tuple[str | int, ...], path: Path, lines: yamlfile.Lines) -> None:
    where = f"{path}:{lines.of(*at)}"
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".") or "the file"
    kind, words = _KINDS[schema["type"]]
    if not isinstance(value, kind) or isinstance(value, bool):
        hint = "put it in quotes" if kind is str and isinstance(value, (int, float, bool)) else f"expected {words}"
        raise InputError(f"{where}: {name}: {value!r}; expected {words}", f"{schema.get('description', hint)}; {hint}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        raise InputError(
            f"{where}: {name}: {value!r}; expected {schema.get('description', 'a text')}",
            f"it has to match {schema['pattern']}",
        )
    if "minimum" in schema and value < schema["minimum"]:
        raise InputError(f"{where}: {name}: {value}; expected {schema['minimum']} or more", schema["description"])
    if kind is list:
        for index, item in enumerate(value):
            _check(item, schema["items"], (*at, index), path, lines)
    if kind is dict:
        for key, item in value.items():
            _check(item, _of_key(key, schema, at, path, lines), (*at, str(key)), path, lines)


def _of_key(key: Any, schema: Mapping[str, Any], at: tuple[str | int, ...], path: Path, lines: yamlfile.Lines) -> Any:
    known: Mapping[str, Any] = schema.get("properties", {})
    if key in known:
        return known[key]
    where = f"{path}:{lines.of(*at, str(key))}"
    others = schema["additionalProperties"]
    if not others:
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        inside = f" in '{'.'.join(map(str, at))}'" if at else ""
        raise InputError(
            f"{where}: unknown key '{key}'{inside}" + (f"; did you mean '{near[0]}'?" if near else ""),
            f"known are: {', '.join(known)}",
        )
    if not re.search(schema["propertyNames"]["pattern"], str(key)):
        raise InputError(f"{where}: {key!r} can't be the name of a variable", "letters, digits and _")
    return others

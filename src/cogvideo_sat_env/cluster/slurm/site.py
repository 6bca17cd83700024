"""A site file: what is true of one cluster, whoever submits what. Its schema is data/slurm-site.schema.json."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA, variable_path

VARIABLE = "SATENV_SITE"
WHAT = "a site file for job scripts"
_KINDS: dict[str, tuple[type, str]] = {
    "object": (dict, "keys with values"),
    "array": (list, "a list"),
    "string": (str, "a text"),
    "integer": (int, "a whole number"),
}
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True)
class Site:
    """The values of a site file; the schema says what each means. `file` is where they come from."""

    file: Path | None = None
    name: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: str = ""
    gpu_request: str = "gpus-per-node"
    gpu_type: str = ""
    cpus_per_task: int = 0
    memory: str = ""
    sbatch: Sequence[str] = ()
    module_init: str = ""
    module_use: Sequence[str] = ()
    modules: Sequence[str] = ()
    interface: str = ""
    root: str = ""
    stage: str = ""
    scratch: str = ""
    node_tmp: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    signal_seconds: int = 300
    requeues: int = 20


def schema_of_site() -> dict[str, Any]:
    """Return the JSON Schema of a site file."""
    content: dict[str, Any] = json.loads((DATA / "slurm-site.schema.json").read_text(encoding="utf-8"))
    return content


def find(named: Path | None) -> Site:
    """Return the site of `named`, else of the file in SATENV_SITE, else one without any facts. Raises InputError."""
    path = named or variable_path(VARIABLE)
    return read(path) if path is not None else Site()


def read(path: Path) -> Site:
    """Read a site file; an empty one has no values.

    Raises InputError for one that is missing, and for the first key or value that the schema forbids, with file, line
    and what is expected.
    """
    found, lines = yamlfile.load(path, WHAT)
    values = {} if found is None else found
    _check(values, schema_of_site(), (), path, lines)
    for name, value in values.get("proxies", {}).items():
        if _PASSWORD.search(value):
            raise InputError(
                f"{path}: proxies.{name} holds a password; the job script would show it to everybody",
                f"leave it out, and export {name}_proxy in your own shell: Slurm hands it on",
            )
    return Site(file=Path(os.path.abspath(path)), **values)


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


def seconds(limit: str) -> int:
    """Return a time limit of Slurm in seconds: "30" (minutes), "30:00", "2:00:00", "1-12", "1-12:30:00"."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, (minutes, secs) = 0, [*parts, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs

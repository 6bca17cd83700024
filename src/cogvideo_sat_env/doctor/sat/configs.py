"""The YAML files of --base, read and merged as upstream reads them, every value with the file and line it comes from.

Upstream: OmegaConf.merge(*[OmegaConf.load(file) for file in base]). Mappings are merged key by key, a later file wins,
lists and everything else are replaced whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.yamlfile import Lines

WHAT = "a config of CogVideo's sat/"
Key = tuple[str | int, ...]
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.?|\d*\.\d+)[eE][-+]?\d+")  # 1e-8: a number to OmegaConf, a text to PyYAML


@dataclass(frozen=True)
class ValuePlace:
    """Where a value stands: file and line (from 1)."""

    file: Path
    line: int


@dataclass(frozen=True)
class Config:
    """The merged values of several files."""

    files: tuple[Path, ...]
    data: dict[str, Any]
    places: dict[Key, ValuePlace] = field(default_factory=dict)

    def get(self, dotted: str, default: Any = None) -> Any:
        """Return the value at `a.b.c`, or `default`."""
        value: Any = self.data
        for key in dotted.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def has(self, dotted: str) -> bool:
        """Tell whether there is a value at `a.b.c`, null included."""
        missing = object()
        return self.get(dotted, missing) is not missing

    def place(self, dotted: str) -> ValuePlace:
        """Return where the value at `a.b.c` comes from, or its nearest ancestor."""
        key: Key = tuple(dotted.split("."))
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, ValuePlace(self.files[0], 1))


def read(files: Sequence[Path]) -> Config:
    """Read and merge the files. Raises InputError for one that is missing, no YAML, or not a mapping."""
    data: dict[str, Any] = {}
    places: dict[Key, ValuePlace] = {}
    for file in files:
        value, lines = yamlfile.load(file, WHAT)
        if not isinstance(value, dict):
            kind = "nothing" if value is None else f"a {type(value).__name__}"
            raise InputError(
                f"{file}: holds {kind}; expected {WHAT}: sections 'model', 'args', 'data' or 'deepspeed'",
                "name the files as upstream's --base does, e.g. configs/cogvideox_2b_lora.yaml configs/sft.yaml",
            )
        _merge(data, _numbers(value), file, lines, (), places)
    return Config(tuple(files), data, places)


def _numbers(value: Any) -> Any:
    """Return `value` with the texts that OmegaConf reads as numbers as numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    return value


def _merge(old: dict, new: dict, file: Path, lines: Lines, key: Key, places: dict[Key, ValuePlace]) -> None:
    """Merge `new`, which stands at `key` of `file`, into `old`, and note where each of its values stands."""
    for name, value in new.items():
        here = (*key, name)
        places[here] = ValuePlace(file, lines.of(*here))
        if isinstance(value, dict):
            if not isinstance(old.get(name), dict):
                old[name] = {}
            _merge(old[name], value, file, lines, here, places)
        else:
            for inner in [other for other in places if len(other) > len(here) and other[: len(here)] == here]:
                del places[inner]  # replaced whole
            old[name] = value

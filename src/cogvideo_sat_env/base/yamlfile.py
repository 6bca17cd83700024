"""Reading YAML so that every later error can name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cogvideo_sat_env.base.errors import InputError

MAX_DEPTH = 100  # our files nest four deep; libyaml's composer recurses, and would overflow the stack at some 100,000
MAX_BYTES = 64 * 1024 * 1024  # a conda-lock.yml of ten platforms has 5 MB; more than this is not one of our files


class Lines:
    """Line numbers (from 1) of the values of one YAML file, found by their path of keys and indices."""

    def __init__(self, root: yaml.Node | None) -> None:
        self._root = root

    def of(self, *path: str | int) -> int:
        """Return the line of the value at `path`, or of the nearest ancestor that exists."""
        node, line = self._root, 1
        for step in path:
            child = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == str(step):
                        line, child = key.start_mark.line + 1, value
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                child = node.value[step]
                line = child.start_mark.line + 1
            if child is None:
                return line
            node = child
        return line


def load(path: Path, what: str) -> tuple[Any, Lines]:
    """Read the YAML file at `path`; `what` is what the user calls it.

    Raises InputError with file and line when it is missing, unreadable, not UTF-8, too large, not YAML, or has a key
    twice (PyYAML would silently keep the last).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path}: {path.stat().st_size:,} bytes; expected {what} of at most {MAX_BYTES:,} bytes",
                "check that this is the right file",
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected {what}", "check the path, or run from the project") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; expected {what} in UTF-8", "restore the file, e.g. with git"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected {what}", "check its permissions") from error
    try:
        # libyaml's loader reads a 3 MB lock in a second instead of ten
        loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        _refuse_deep_nesting(text, path, loader_class)
        root = yaml.compose(text, Loader=loader_class)
        _refuse_duplicate_keys(root, path, set())
        loader = loader_class("")
        data = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"{where}: {error.problem}; expected {what} in YAML", "correct that line") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}; expected {what} in YAML", "restore the file, e.g. with git") from error
    return data, Lines(root)


def load_under(path: Path, what: str, key: str, kind: type = list) -> tuple[Any, Lines]:
    """Read a file of ours as load does; it must be a mapping that has `key`, with a value of `kind`."""
    data, lines = load(path, what)
    if not isinstance(data, dict) or not isinstance(data.get(key), kind):
        noun = "list" if kind is list else "mapping"
        raise InputError(f"{path}:1: expected {what}: a {noun} under '{key}'", "restore the file, e.g. with git")
    return data, lines


def _refuse_deep_nesting(text: str, path: Path, loader_class: type) -> None:
    """Raise InputError for YAML that is nested deeper than MAX_DEPTH; only what could be is looked through twice."""
    brackets = text.count("[") + text.count("{")
    if brackets <= MAX_DEPTH and all(len(line) <= MAX_DEPTH * 10 for line in text.splitlines()):
        return
    depth = 0
    for event in yaml.parse(text, Loader=loader_class):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise InputError(
                    f"{path}:{line}: nested more than {MAX_DEPTH} deep",
                    "check that this is the right file",
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refuse_duplicate_keys(node: yaml.Node | None, path: Path, seen_nodes: set[int]) -> None:
    if node is None or id(node) in seen_nodes:  # an alias: visited already
        return
    seen_nodes.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise InputError(
                        f"{path}:{line}: key '{key.value}' stands twice (first on line {seen[key.value]})",
                        "remove one of the two",
                    )
                seen[key.value] = line
            _refuse_duplicate_keys(value, path, seen_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path, seen_nodes)

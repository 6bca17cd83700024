"""Corrected copies of YAML files: only the values that a finding names change; comments and order stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.doctor.sat.configs import Key
from cogvideo_sat_env.doctor.sat.finding import Edit, Finding

SUFFIX = "-fixed"


def corrected(text: str, edits: Iterable[Edit]) -> str:
    """Return `text` with the edits made. Raises InputError for a place that can't be edited as text."""
    for edit in edits:
        if edit.moved is not None:
            value = _source(text, edit)
            text = _insert(_remove(text, edit), edit, edit.moved, str(edit.path[-1]), value)
        elif _node(text, edit.path) is None:
            text = _insert(text, edit, edit.path[:-1], str(edit.path[-1]), _render(edit.value))
        else:
            node = _node(text, edit.path)
            text = text[: node.start_mark.index] + _render(edit.value) + text[_end(text, node) :]
    return text


def write_corrected(file: Path, findings: Sequence[Finding], folder: Path | None = None) -> Path | None:
    """Write the corrected copy of `file` beside it (or into `folder`) as NAME-fixed.yaml; None when nothing changes.

    Raises InputError.
    """
    edits = [finding.edit for finding in findings if finding.edit is not None and finding.edit.file == str(file)]
    if not edits:
        return None
    text = corrected(file.read_text(encoding="utf-8"), edits)
    target = (folder or file.parent) / f"{file.stem}{SUFFIX}{file.suffix}"
    write_atomically(target, text.encode("utf-8"))
    return target


def _render(value: object) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _compose(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _pair(text: str, path: Key) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the key's and the value's node at `path`, or None."""
    node, found = _compose(text), None
    for step in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(step)), None)
        if found is None:
            return None
        node = found[1]
    return found


def _node(text: str, path: Key) -> yaml.Node | None:
    pair = _pair(text, path)
    return pair[1] if pair else None


def _end(text: str, node: yaml.Node) -> int:
    """Return where a value's text ends: a block's end mark stands on the next line."""
    return len(text[: node.end_mark.index].rstrip()) if isinstance(node, yaml.CollectionNode) else node.end_mark.index


def _source(text: str, edit: Edit) -> str:
    node = _node(text, edit.path)
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{edit.file}: {'.'.join(map(str, edit.path))}: expected one value to move", "move it by hand")
    return text[node.start_mark.index : node.end_mark.index]


def _remove(text: str, edit: Edit) -> str:
    """Take out the line of a key; a mapping that has nothing left becomes {}."""
    pair, parent = _pair(text, edit.path), _pair(text, edit.path[:-1])
    if pair is None or parent is None or not isinstance(parent[1], yaml.MappingNode) or parent[1].flow_style:
        raise InputError(f"{edit.file}: {'.'.join(map(str, edit.path))}: can't be moved as text", "move it by hand")
    start = text.rfind("\n", 0, pair[0].start_mark.index) + 1
    end = text.find("\n", pair[1].end_mark.index) + 1 or len(text)
    if len(parent[1].value) == 1:
        mark = text.find(":", parent[0].end_mark.index) + 1
        return text[:mark] + " {}" + text[mark:start] + text[end:]
    return text[:start] + text[end:]


def _insert(text: str, edit: Edit, mapping: Key, key: str, value: str) -> str:
    """Put `key: value` first into the mapping at `mapping`."""
    node = _node(text, mapping) if mapping else _compose(text)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise InputError(f"{edit.file}: has no section {'.'.join(map(str, mapping))}", f"add {key}: {value} by hand")
    first = node.value[0][0].start_mark
    if node.flow_style:
        return text[: first.index] + f"{key}: {value}, " + text[first.index :]
    return text[: first.index] + f"{key}: {value}\n{' ' * first.column}" + text[first.index :]

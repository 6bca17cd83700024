"""The tasks of workers.py by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# task -> its module; all but the last two need the standard library only
_MODULES = {
    "verify": "package_files", "link_bytecode": "bytecode_files", "keep_bytecode": "bytecode_files",
    "complete_record": "prefix_record", "unpack": "unpack", "link": "link_task",
}  # fmt: skip


def load(name: str) -> Callable[..., Any]:
    """Return the function that is the task `name`."""
    return getattr(import_module(f"{__package__}.{_MODULES[name]}"), name)

"""The scripts that are made for the entry points of noarch Python packages, byte for byte as conda writes them."""

from __future__ import annotations

import keyword
from dataclasses import dataclass

SHEBANG_MAX = 127  # characters: more are cut off by older kernels

_SCRIPT = """\
# -*- coding: utf-8 -*-
import re
import sys

from {module} import {imported}

if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])
    sys.exit({function}())
"""


@dataclass(frozen=True)
class EntryPoint:
    """One entry point: a command that calls `module`:`function`."""

    command: str
    module: str
    function: str

    @property
    def path(self) -> str:
        """Where its script goes, relative to the prefix."""
        return f"bin/{self.command}"

    def script(self, python: str) -> bytes:
        """Return the script; it is started with the interpreter at `python`."""
        text = _SCRIPT.format(module=self.module, imported=self.function.split(".")[0], function=self.function)
        return (_shebang(python) + text).encode("utf-8")


def parse(text: str) -> EntryPoint:
    """Read "command = module:function". Raises ValueError for what names no command or can't be imported."""
    left, colon, function = text.rpartition(":")
    command, equals, module = left.rpartition("=")
    point = EntryPoint(command.strip(), module.strip(), function.strip())
    if not (colon and equals and _is_importable(point.module) and _is_importable(point.function)):
        raise ValueError(f"{text!r}: expected command = module:function")
    if point.command in ("", ".", "..") or "/" in point.command or not point.command.isprintable():
        raise ValueError(f"{text!r}: {point.command!r} can't be a command's name")
    return point


def _is_importable(path: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in path.split("."))


def _shebang(python: str) -> str:
    line = f"#!{python}\n"
    if len(line) > SHEBANG_MAX or " " in python:  # the shell starts it; to Python that line is a string
        return f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\" #'''\n"
    return line

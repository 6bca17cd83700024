"""What is normalised before a file of a prefix is hashed, so that the same environment has the same manifest anywhere.

What two creates can't have in common is replaced by what they have, never left out:

prefix           where conda wrote it in place of its placeholder, the placeholder is put back (in binaries with the
                 padding): the SHA-256 is the package's own. Elsewhere @PREFIX@ stands for it
long prefixes    the ways around the kernel's limit on a script's first line count as that line
records          conda-meta/*.json: what the package is and which files it has; not where it was cached or fetched from
history          conda-meta/history: what was linked and unlinked; not dates and commands
receipt          the packages and which files no package has; not times, tool and addresses (its files are hashed
                 themselves)
wheels           the packages that this machine made of wheels: their archives hold bytecode of the running Python, so
                 that only their names, versions and files count. Links to that Python, and its version, are @PYTHON@
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.install import activation, own_files, receipt
from cogvideo_sat_env.source.wheels.interpreter import BUILD

PREFIX = "@PREFIX@"
PYTHON = "@PYTHON@"
WHEELS = "wheels"
_RECORD = ("name", "version", "build", "build_number", "subdir", "noarch", "depends", "constrains", "license")
_RECEIPT = ("platform", "data_only", "not_provided", "patched")
_GENERATED = ("unix_python_entry_point", "pyc_file")  # files that no package holds: of them only the place is recorded
_LARGEST = 1 << 24  # bytes of a file of no package that the prefix is looked for in
_EXEC = re.compile(rb"#!/bin/sh\n'''exec' (?P<words>[^\n]+) \"\$0\" \"\$@\"(?: #'''\n|\n' '''\n)")
_SHEBANG = re.compile(rb"#![ ]*(?P<path>\S+)(?P<rest>[^\n]*)\n")


@dataclass(frozen=True)
class Prefix:
    """An environment, and what its records say of it. `spellings` are the paths that its files may know it by."""

    path: Path
    receipt: Mapping[str, Any] | None
    records: Mapping[str, Mapping[str, Any]] = field(repr=False)  # by the file's name in conda-meta

    @cached_property
    def spellings(self) -> list[str]:
        """Return the path as given, the real one, and the receipt's while it leads here; longest first."""
        names = {os.path.abspath(self.path), os.path.realpath(self.path)}
        made = (self.receipt or {}).get("prefix")
        if isinstance(made, str) and receipt.moved_from(self.path, self.receipt or {}) is None:
            names.add(made)
        return sorted(names, key=lambda name: (-len(name), name))

    @cached_property
    def of_wheels(self) -> bool:
        """Whether its packages were made of wheels on the machine that made it."""
        return (self.receipt or {}).get("variant") == WHEELS

    @cached_property
    def running_python(self) -> str | None:
        """Return the version of the running Python that it is built on; None when Python is one of its packages."""
        return next((str(r.get("version")) for r in self.records.values() if is_running(r)), None)

    @cached_property
    def python(self) -> str:
        """Return the version of its Python, "" without one."""
        return next((str(r.get("version")) for r in self.records.values() if r.get("name") == "python"), "")

    @cached_property
    def paths(self) -> dict[str, Mapping[str, Any]]:
        """Return the packages' entries of files by path."""
        found = {}
        for record in self.records.values():
            for entry in (record.get("paths_data") or {}).get("paths") or ():
                found[str(entry["_path"])] = entry
        return found

    def public(self, path: str) -> str:
        """Return the path under which a file stands in the manifest: without the running Python's version."""
        name = path.removeprefix("conda-meta/")
        if path != name and name in self.records and is_running(self.records[name]):
            return f"conda-meta/python-{PYTHON}-{BUILD}.json"
        return path

    def link(self, path: str, target: str) -> str:
        """Return the normalised target of the link at `path`."""
        if self.running_python and re.fullmatch(r"bin/python[0-9.]*", path) and target.startswith("/"):
            return PYTHON
        return self.replaced(os.fsencode(target)).decode("utf-8", "surrogateescape")

    def replaced(self, content: bytes) -> bytes:
        """Return `content` with @PREFIX@ in place of the prefix, where it isn't the end of another path."""
        for name in self.spellings:
            content = re.sub(rb"(?<![\w./-])" + re.escape(os.fsencode(name)) + rb"(?![\w.-])", PREFIX.encode(), content)
        return content

    def content(self, path: str) -> bytes | None:
        """Return the normalised content of the file at `path`; None where the bytes are to be hashed as they are.

        Raises OSError; InputError for a record of conda's that can't be read.
        """
        name = path.removeprefix("conda-meta/")
        if path != name and name in self.records:
            return _json(self._record(self.records[name]))
        if path == own_files.HISTORY:
            return self._history((self.path / path).read_bytes())
        if path == own_files.RECEIPT and self.receipt is not None:
            return _json(self._receipt(self.receipt))
        entry = self.paths.get(path)
        if entry is None or entry.get("path_type") in _GENERATED:
            return self._unpackaged(path)
        if self.running_python and path == "pyvenv.cfg":
            return self._pyvenv((self.path / path).read_text("utf-8", "surrogateescape"))
        placeholder = entry.get("prefix_placeholder")
        if not placeholder or entry.get("path_type") == "softlink":
            return None
        content = (self.path / path).read_bytes()
        if entry.get("file_mode") == "binary":
            return _restore_binary(content, self.spellings, placeholder.encode())
        content = _short_shebang(content)
        for name in self.spellings:
            content = content.replace(os.fsencode(name), placeholder.encode())
        return _env_shebang(content, placeholder)

    def _unpackaged(self, path: str) -> bytes | None:
        """Files of pip's, this program's, or the user's own, which may be checkpoints: no text is so large."""
        if os.path.getsize(self.path / path) > _LARGEST:
            return None
        content = (self.path / path).read_bytes()
        if path in activation.TEMPLATES:
            for name in self.spellings:
                content = content.replace(activation.quoted(path, name).encode("utf-8"), PREFIX.encode())
        if path.endswith(".dist-info/RECORD"):
            content = _wheel_record(content)
        return self.replaced(_short_shebang(content))

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: record[key] for key in _RECORD if key in record}
        entries = (record.get("paths_data") or {}).get("paths") or [{"_path": name} for name in record.get("files", ())]
        kept["paths"] = sorted(
            [[str(e["_path"]), e.get("path_type", "hardlink"), self._recorded_sha256(e)] for e in entries], key=str
        )
        if is_running(record):
            return {**kept, "version": PYTHON, "paths": [entry[:2] for entry in kept["paths"]]}
        return kept if self.of_wheels else {**kept, "sha256": record.get("sha256")}

    def _recorded_sha256(self, entry: Mapping[str, Any]) -> str | None:
        made_here = str(entry["_path"]).endswith(".pyc") and self.of_wheels
        return None if made_here or entry.get("path_type") in _GENERATED else entry.get("sha256")

    def _history(self, content: bytes) -> bytes:
        lines = [line for line in content.splitlines() if line[:1] in b"+-" and line.strip()]
        if self.of_wheels:
            lines = [re.sub(rb"^([+-]).*?([^/]+::)", rb"\1\2", line) for line in lines]
        if self.running_python:
            old = f"::python-{self.running_python}-{BUILD}".encode()
            lines = [line.replace(old, f"::python-{PYTHON}-{BUILD}".encode()) for line in lines]
        return b"".join(line + b"\n" for line in sorted(lines))

    def _receipt(self, found: Mapping[str, Any]) -> dict[str, Any]:
        own = self.of_wheels
        packages = [
            [p["name"], PYTHON if p["build"] == BUILD else p["version"], p["build"], None if own else p["sha256"]]
            for p in found["packages"]
        ]
        pip = [[p["name"], p["version"], p["sha256"]] for p in found["pip"]]
        return {**{key: found.get(key) for key in _RECEIPT}, "packages": sorted(packages), "pip": sorted(pip),
                "files": sorted(found["files"])}  # fmt: skip

    def _pyvenv(self, text: str) -> bytes:
        """Return pyvenv.cfg without where the running Python lies and which patch release it is."""
        return re.sub(r"(?m)^(home|version|executable) = .*$", rf"\1 = {PYTHON}", text).encode(
            "utf-8", "surrogateescape"
        )


def open_prefix(path: Path) -> Prefix:
    """Return the environment at `path`. Raises InputError where there is none, or a record of it can't be read."""
    if not (path / "conda-meta").is_dir():
        raise InputError(f"{path}: is no environment: it has no conda-meta folder", "name the folder of an environment")
    path = Path(os.path.abspath(path))  # children have another working directory
    records = {}
    for file in sorted((path / "conda-meta").glob("*.json")):
        try:
            found = json.loads(file.read_bytes())
            if not isinstance(found["name"], str):
                raise TypeError("its name is no text")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file}: can't be read as a record of conda's: {error}",
                f"repair the environment: {satenv('create --repair -p', path)}",
            ) from error
        records[file.name] = found
    return Prefix(path, receipt.read(path), records)


def is_running(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of the running Python, which the wheels source makes a package of."""
    return record.get("name") == "python" and record.get("build") == BUILD


def _json(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True) + "\n").encode("utf-8", "surrogateescape")


def _short_shebang(content: bytes) -> bytes:
    """Undo what stands for a first line that is too long for the kernel, as conda, rattler and installer write it."""
    found = _EXEC.match(content)
    if not found:
        return content
    try:
        words = shlex.split(os.fsdecode(found["words"]))
    except ValueError:
        return content
    return b"#!" + os.fsencode(" ".join(words)) + b"\n" + content[found.end() :]


def _env_shebang(content: bytes, placeholder: str) -> bytes:
    """Give a program in the prefix other than Python the first line that it has where its own is too long."""
    found = _SHEBANG.match(content)
    if not found or not found["path"].startswith(placeholder.encode()):
        return content
    program = found["path"].rpartition(b"/")[2]
    if program.startswith(b"python"):
        return content
    return b"#!/usr/bin/env " + program + found["rest"] + b"\n" + content[found.end() :]


def _restore_binary(content: bytes, prefixes: Sequence[str], placeholder: bytes) -> bytes:
    """Put the placeholder back into texts that end with NUL, which were padded when the prefix took its place."""
    for prefix in map(os.fsencode, prefixes):
        grown = len(placeholder) - len(prefix)
        pieces, done = [], 0
        while grown >= 0 and (start := content.find(prefix, done)) >= 0:
            end = content.find(b"\0", start)
            if end < 0:
                break
            text = content[start:end]
            pieces += [content[done:start], text.replace(prefix, placeholder)]
            done = end + grown * text.count(prefix)
        content = b"".join([*pieces, content[done:]])
    return content


def _wheel_record(content: bytes) -> bytes:
    """Return the RECORD of a wheel without size and hash of scripts, which name the prefix, in order."""
    lines = [line for line in content.splitlines() if line]
    return b"\n".join(sorted(re.sub(rb"^(\.\./.*),[^,]*,[^,]*$", rb"\1,,", line) for line in lines)) + b"\n"

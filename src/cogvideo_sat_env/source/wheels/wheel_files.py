"""Laying out a wheel as files of a prefix, with PyPI's `installer`."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InvalidWheelSource
from installer.records import RecordEntry
from installer.scripts import Script
from installer.sources import WheelFile
from installer.utils import Scheme, construct_record_file

from cogvideo_sat_env.base.child import clean_environment
from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.source.wheels.interpreter import Interpreter

if TYPE_CHECKING:
    from installer.scripts import ScriptSection

# Runs the python beside the script, wherever the prefix is: assemble_package records no prefix placeholder, and a
# shebang line may not be longer than 127 bytes. Python reads the second and third line as a string.
SHEBANG = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
' '''
"""
# packages that several distributions ship an empty __init__.py of: without it they share a namespace, with it they
# would overwrite each other's file
_SHARED = ("nvidia/__init__.py",)


@dataclass
class _Stage(SchemeDictionaryDestination):
    """A staged prefix: relocatable scripts, no shared files, bytecode, and a RECORD that knows of all that."""

    compiled_by: Interpreter | None = None
    stage: str = ""
    _left_out: set[str] = field(default_factory=set)

    def write_script(self, name: str, module: str, attr: str, section: ScriptSection) -> RecordEntry:
        _, data = Script(name, module, attr, section).generate("/python", "posix")
        with io.BytesIO(SHEBANG + data.partition(b"\n")[2]) as stream:
            return self.write_to_fs(Scheme("scripts"), name, stream, is_executable=True)

    def write_file(
        self, scheme: Scheme, path: str | os.PathLike[str], stream: BinaryIO, is_executable: bool
    ) -> RecordEntry:
        name = os.fspath(path)
        if scheme == "scripts":
            data = stream.read()
            if data.startswith(b"#!python"):
                data = SHEBANG + data.partition(b"\n")[2]
            with io.BytesIO(data) as changed:
                return self.write_to_fs(scheme, name, changed, is_executable=True)
        if name in _SHARED and not stream.read(1):
            self._left_out.add(name)
            return RecordEntry(name, None, None)
        stream.seek(0)
        return self.write_to_fs(scheme, name, stream, is_executable)

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        kept = [(where, entry) for where, entry in records if entry.path not in self._left_out]
        if self.compiled_by:
            compile_bytecode(self.compiled_by, Path(self.stage))
        site = Path(self.scheme_dict["purelib"])
        for path in sorted(site.rglob("*.pyc")) if site.is_dir() else []:
            kept.append((scheme, RecordEntry(path.relative_to(site).as_posix(), None, None)))
        above = {
            name: os.path.relpath(folder, start=site) + "/"
            for name, folder in self.scheme_dict.items()
            if folder != str(site)
        }
        with construct_record_file(kept, lambda where: above.get(where)) as stream:
            self.write_to_fs(scheme, record_file_path, stream, is_executable=False)


def compile_bytecode(python: Interpreter, stage: Path) -> None:
    """Compile every module below `stage` with the target interpreter: hash-checked, so that edited sources still count.

    Modules that this Python can't compile are left alone, as pip does.
    """
    site = stage / python.site_packages
    if not any(site.rglob("*.py")):
        return
    child = subprocess.run(
        [str(python.base), "-S", "-s", "-m", "compileall", "-q", "-q", "--invalidation-mode", "checked-hash",
         "-s", str(stage), str(site)],
        env=clean_environment(PYTHONHASHSEED="0"), cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if child.returncode not in (0, 1):  # 1: some module isn't valid for this Python
        raise OSError(f"compileall ended with code {child.returncode}: {child.stderr.strip()[-300:]}")


def lay_out(wheel: Path, python: Interpreter, name: str, stage: Path, compiled: bool = True) -> None:
    """Unpack `wheel` into the empty folder `stage` as its files lie below a prefix; `name` is the distribution's.

    With the bytecode of this Python if it is to be `compiled`.

    Raises VerificationError when the wheel is malformed or reaches outside the prefix.
    """
    site = str(stage / python.site_packages)
    schemes = {
        "purelib": site,
        "platlib": site,
        "headers": str(stage / "include" / "site" / f"python{python.minor}" / name),
        "scripts": str(stage / "bin"),
        "data": str(stage),
    }
    destination = _Stage(schemes, "/python", "posix", compiled_by=python if compiled else None, stage=str(stage))
    try:
        with WheelFile.open(wheel) as source:
            install(source, destination, {"INSTALLER": b"conda\n"})
    except (InvalidWheelSource, ValueError, FileExistsError, KeyError) as error:
        raise VerificationError(f"{wheel.name}: malformed wheel: {error}", "lock another version") from error

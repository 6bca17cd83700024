"""Compiles what came without bytecode: noarch Python packages and pip-laid files (conda does the same).

Without it the first import of every user is slow, and on a read-only release every import is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.errors import SatenvError
from cogvideo_sat_env.install.link import write_record
from cogvideo_sat_env.install.prefixpython import PrefixPython
from cogvideo_sat_env.progress import Progress

_LIST = ".satenv-compile"
_TAG = "import sys; print(sys.implementation.cache_tag)"


def compile_noarch(python: PrefixPython, records: Sequence[Path], prefix: Path, progress: Progress) -> int:
    """Compile the noarch packages of the conda-meta `records` and enter the bytecode there. Return the file count."""
    read = {path: json.loads(path.read_text(encoding="utf-8")) for path in records}
    wanted = {path: [name for name in record["files"] if name.endswith(".py")] for path, record in read.items()}
    made = compile_files(python, [name for names in wanted.values() for name in names], prefix, progress)
    for path, record in read.items():
        there = set(record["files"])
        new = [made[name] for name in wanted[path] if name in made and made[name] not in there]
        record["files"] += new
        record["paths_data"]["paths"] += [{"_path": name, "path_type": "pyc_file"} for name in new]
        write_record(path, record)
    return len(made)


def compile_files(python: PrefixPython, names: Sequence[str], prefix: Path, progress: Progress) -> dict[str, str]:
    """Compile the files `names` (relative to the prefix) as if they lay in `prefix`; return bytecode path by source.

    A file that isn't Python of this version (templates, tests of the compiler) stays without bytecode, as with conda.
    """
    if not names:
        return {}
    root = python.root
    tag = python.run(["-c", _TAG]).stdout.strip()
    expected = {name: _cached(name, tag) for name in names}
    todo = [name for name, cached in expected.items() if not (root / cached).exists()]
    listing = root / _LIST
    listing.write_text("".join(f"{root / name}\n" for name in todo), encoding="utf-8")
    try:
        with progress.task("Compiling bytecode", len(todo), "files") as task:
            child = python.run(
                ["-W", "ignore", "-m", "compileall", "-q", "-q", "-j", str(os.cpu_count() or 1),
                 "--invalidation-mode", "timestamp", "-s", str(root), "-p", str(prefix), "-i", str(listing)]
            )  # fmt: skip
            task.advance(len(todo))
    finally:
        listing.unlink()
    made = {name: cached for name, cached in expected.items() if (root / cached).exists()}
    if todo and not made:
        raise SatenvError(
            f"no bytecode could be made: {(child.stderr or child.stdout).strip()[-400:]}", "check the free disk space"
        )
    return made


def _cached(name: str, tag: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/__pycache__/{file.removesuffix('.py')}.{tag}.pyc".lstrip("/")

"""Compiles what came without bytecode: noarch Python packages and pip-laid files (conda does the same).

Without it the first import of every user is slow, and on a read-only release every import is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cogvideo_sat_env.errors import SatenvError
from cogvideo_sat_env.install.archive import Package
from cogvideo_sat_env.install.bytecode_cache import BytecodeCache, cached_path
from cogvideo_sat_env.install.link import write_record
from cogvideo_sat_env.install.prefixpython import PrefixPython
from cogvideo_sat_env.progress import Progress

_LIST = ".satenv-compile"


def compile_noarch(
    python: PrefixPython, packages: Mapping[Path, Package], cache: BytecodeCache, progress: Progress
) -> int:
    """Give noarch `packages` bytecode, from `cache` where it has it, and enter it in their conda-meta records (keys).

    It names paths relative to the prefix, so that it is the same in all: the import system puts in the real ones.
    Return the file count. Raises SatenvError, PrefixError (no space).
    """
    read = {path: json.loads(path.read_text(encoding="utf-8")) for path in packages}
    wanted = {path: [name for name in record["files"] if name.endswith(".py")] for path, record in read.items()}
    own = {}
    for path, package in packages.items():
        there = set(read[path]["files"])
        without = (name for name in wanted[path] if cached_path(name, python.cache_tag) not in there)
        own[path] = cache.own_sources(package, without)
        cache.link(package, own[path])
    names = [name for names in wanted.values() for name in names]
    lacking = {name for name in names if not (python.root / cached_path(name, python.cache_tag)).exists()}
    made = compile_files(python, names, None, progress)
    for path, record in read.items():
        if any(name in lacking and name in made for name in own[path]):
            cache.keep(packages[path], own[path])
        there = set(record["files"])
        new = [made[name] for name in wanted[path] if name in made and made[name] not in there]
        record["files"] += new
        record["paths_data"]["paths"] += [{"_path": name, "path_type": "pyc_file"} for name in new]
        write_record(path, record)
    return len(made)


def compile_files(
    python: PrefixPython, names: Sequence[str], prefix: Path | None, progress: Progress
) -> dict[str, str]:
    """Compile the files `names` (relative to the prefix) unless they are; return bytecode path by source.

    It names them as if they lay in `prefix`, or relative to it without one.

    A file that isn't Python of this version (templates, tests of the compiler) stays without bytecode, as with conda.
    """
    if not names:
        return {}
    root = python.root
    expected = {name: cached_path(name, python.cache_tag) for name in names}
    todo = [name for name, cached in expected.items() if not (root / cached).exists()]
    if not todo:
        return expected
    listing = root / _LIST
    listing.write_text("".join(f"{root / name}\n" for name in todo), encoding="utf-8")
    renamed = ["-p", str(prefix)] if prefix else []
    try:
        with progress.task("Compiling bytecode", len(todo), "files") as task:
            child = python.run(
                ["-W", "ignore", "-m", "compileall", "-q", "-q", "-j", str(os.cpu_count() or 1),
                 "--invalidation-mode", "timestamp", "-s", str(root), *renamed, "-i", str(listing)]
            )  # fmt: skip
            task.advance(len(todo))
    finally:
        listing.unlink()
    made = {name: cached for name, cached in expected.items() if (root / cached).exists()}
    if not made:
        raise SatenvError(
            f"no bytecode could be made: {(child.stderr or child.stdout).strip()[-400:]}", "check the free disk space"
        )
    return made

"""Compiles what came without bytecode: noarch Python packages and pip-laid files (conda does the same).

Without it the first import of every user is slow, and on a read-only release every import is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cogvideo_sat_env.base.errors import SatenvError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.bytecode_cache import BytecodeCache
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.link import job_of
from cogvideo_sat_env.install.package_files import cached_path
from cogvideo_sat_env.install.prefix_python import PrefixPython
from cogvideo_sat_env.install.workers import WorkerPool

_LIST = ".satenv-compile"
_WORTH = 100  # files: fewer aren't worth another process


def compile_noarch(
    python: PrefixPython, packages: Sequence[ExtractedPackage], layout: Layout, cache: BytecodeCache,
    workers: WorkerPool, progress: Progress,
) -> None:  # fmt: skip
    """Give the noarch Python ones of `packages` bytecode, from `cache` where it has it.

    It names paths relative to the prefix, so that it is the same in all: the import system puts in the real ones.
    Raises SatenvError, PrefixError (no space).
    """
    noarch = [(number, package) for number, package in enumerate(packages) if package.noarch_python]
    jobs = [job_of(p, layout, number, python.root) | cache.job(p) for number, p in noarch]
    lacking = workers.run("link_bytecode", jobs)
    names = [name for names in lacking for name in names]
    for number, package in noarch:  # what isn't one with the package's own file
        names += [name for name in layout.own(package, number) if name.endswith(".py")]
    made = compile_files(python, list(dict.fromkeys(names)), None, progress)
    new = [job for job, names in zip(jobs, lacking, strict=True) if any(name in made for name in names)]
    if new:
        cache.keep(new, workers)


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
    renamed = ["-p", str(prefix)] if prefix else []
    parts = min(os.cpu_count() or 1, 1 + len(todo) // _WORTH)
    listings = [root / f"{_LIST}{number}" for number in range(parts)]

    def compile_some(listing: Path) -> subprocess.CompletedProcess[str]:
        # compileall's own -j is for folders only: files of a list are compiled one after the other
        return python.run(
            ["-W", "ignore", "-m", "compileall", "-q", "-q", "--invalidation-mode", "timestamp", "-s", str(root),
             *renamed, "-i", str(listing)]
        )  # fmt: skip

    try:
        for number, listing in enumerate(listings):
            listing.write_text("".join(f"{root / name}\n" for name in todo[number::parts]), encoding="utf-8")
        with progress.task("Compiling bytecode", len(todo), "files") as task, ThreadPoolExecutor(parts) as pool:
            for number, child in enumerate(pool.map(compile_some, listings)):
                output = child.stderr or child.stdout
                task.advance(len(todo[number::parts]))
    finally:
        for listing in listings:
            listing.unlink(missing_ok=True)
    made = {name: cached for name, cached in expected.items() if (root / cached).exists()}
    if not made:
        raise SatenvError(f"no bytecode could be made: {output.strip()[-400:]}", "check the free disk space")
    return made

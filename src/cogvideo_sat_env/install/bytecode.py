"""Compiles what came without bytecode: noarch Python packages and pip-laid files (conda does the same).

Without it the first import of every user is slow, and on a read-only release every import is. That of noarch Python
packages is compiled once for all prefixes that have the same Python:

CACHE/bytecode/TAG/KEY/       the bytecode of an extracted package, by its paths in the package; TAG names the very
                              build of Python, because the same environment is to get the same bytes
CACHE/bytecode/TAG/KEY.json   size, modification time and inode of each file, as in package_manifest.py, and the time
                              and size of the source that its header names
CACHE/bytecode/TAG/lock       held while something is kept there

A source counts as the package's own only while it is one file with the extracted, verified one (a hard link). One that
was written for the prefix, copied, or belongs to another package is compiled in place.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import SatenvError
from cogvideo_sat_env.base.permissions import cache_umask, require_private
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.job import Job
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.package_cache import key
from cogvideo_sat_env.install.package_files import cached_path
from cogvideo_sat_env.install.prefix_python import PrefixPython
from cogvideo_sat_env.install.workers import WorkerPool

_WORTH = 100  # files: fewer aren't worth another process


def compile_noarch(job: Job, python: PrefixPython, layout: Layout, workers: WorkerPool) -> None:
    """Give the noarch Python packages bytecode, from the cache where it has it; with `full` all is made anew.

    It names paths relative to the prefix, so that it is the same in all: the import system puts in the real ones.
    Raises SatenvError, PrefixError (no space, a cache that others can write to).
    """
    cache = job.cache / "bytecode" / f"{python.cache_tag}.{python.build}"
    require_private(job.cache, cache.parent, cache)
    noarch = [each for each in layout.placed if each.package.noarch_python]
    jobs = [
        {
            "manifest_path": str(each.package.manifest.path), "root": str(python.root), "site": layout.site,
            "skip": sorted(each.claimed), "tag": python.cache_tag, "kept": str(cache / key(each.package.artefact)),
            "anew": job.options.full,
        }
        for each in noarch
    ]  # fmt: skip
    lacking = workers.run("link_bytecode", jobs)
    names = [name for names in lacking for name in names]
    for each in noarch:  # what isn't one with the package's own file
        names += [name for name in each.own if name.endswith(".py")]
    made = compile_files(python, list(dict.fromkeys(names)), None, job.progress)
    new = [args for args, names in zip(jobs, lacking, strict=True) if any(name in made for name in names)]
    if new and os.access(diskspace.existing(cache), os.W_OK | os.X_OK):  # a read-only cache is left as it is
        with diskspace.watch(job.cache, "the bytecode in the package cache"), cache_umask():
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / "lock"):
                workers.run("keep_bytecode", new)


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

    def compile_some(number: int) -> subprocess.CompletedProcess[str]:
        # compileall's own -j is for folders only: files of a list are compiled one after the other
        return python.run(
            ["-X", "utf8", "-W", "ignore", "-m", "compileall", "-q", "-q", "--invalidation-mode", "timestamp",
             "-s", str(root), *renamed, "-i", "-"],
            input="".join(f"{root / name}\n" for name in todo[number::parts]),
        )  # fmt: skip

    with progress.task("Compiling bytecode", len(todo), "files") as task, ThreadPoolExecutor(parts) as pool:
        for number, child in enumerate(pool.map(compile_some, range(parts))):
            output = child.stderr or child.stdout
            task.advance(len(todo[number::parts]))
    made = {name: cached for name, cached in expected.items() if (root / cached).exists()}
    if not made:
        raise SatenvError(f"no bytecode could be made: {output.strip()[-400:]}", "check the free disk space")
    return made

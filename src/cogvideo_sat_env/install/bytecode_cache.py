"""Bytecode of noarch Python packages, compiled once for all prefixes that have the same Python.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.permissions import cache_umask, require_private
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.package_cache import key
from cogvideo_sat_env.install.prefix_python import PrefixPython
from cogvideo_sat_env.install.workers import WorkerPool


class BytecodeCache:
    """The bytecode in `cache` for `python`. With `full` nothing is taken from it: everything is compiled anew."""

    def __init__(self, cache: Path, python: PrefixPython, full: bool = False) -> None:
        self._cache, self._full, self._tag = cache, full, python.cache_tag
        self._folder = cache / "bytecode" / f"{python.cache_tag}.{python.build}"
        require_private(cache, self._folder.parent, self._folder)

    def job(self, package: ExtractedPackage) -> dict[str, Any]:
        """Return the arguments of the tasks in bytecode_files.py that tell where the bytecode of `package` is kept."""
        kept = self._folder / key(package.artefact)
        return {"tag": self._tag, "kept": str(kept), "facts_path": f"{kept}.json", "anew": self._full}

    def keep(self, jobs: Sequence[Mapping[str, Any]], workers: WorkerPool) -> None:
        """Keep the bytecode that was made in the prefix, by `jobs` of packages. A read-only cache is left as it is.

        Raises PrefixError (no space).
        """
        if not os.access(diskspace.existing(self._folder), os.W_OK | os.X_OK):
            return
        with diskspace.watch(self._cache, "the bytecode in the package cache"), cache_umask():
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock"):
                workers.run("keep_bytecode", jobs)

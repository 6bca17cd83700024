"""What is known of the files of one extracted package; `verify` is a task of workers.py.

Only the standard library is imported: many processes start with this. Arguments and results are plain JSON values; the
only error is OSError.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

from cogvideo_sat_env.install import package_manifest

SITE = "site-packages/"  # where noarch Python packages keep what goes into the prefix's site-packages
SCRIPTS = "python-scripts/"  # and what goes into its bin
_read = package_manifest.plain_files


def remember() -> None:
    """Read the manifest of a package once for all tasks: for a process that ends before it can be written anew."""
    global _read
    _read = functools.cache(package_manifest.plain_files)


def verify(manifest_path: str, folder: str) -> str | None:
    """Return the first file that is not as noted, or None."""
    return package_manifest.changed(Path(manifest_path), Path(folder))


def cached_path(source: str, tag: str) -> str:
    """Return where Python with the cache tag `tag` looks for the bytecode of `source`."""
    folder, _, file = source.rpartition("/")
    return f"{folder}/__pycache__/{file.removesuffix('.py')}.{tag}.pyc".lstrip("/")


def targets(
    manifest_path: str, site: str | None, skip: Collection[str]
) -> list[tuple[str, str, package_manifest.Fact]]:
    """Return path in the package, path in the prefix and facts of its plain files but for those at `skip`.

    Raises OSError, ValueError (a damaged manifest).
    """
    facts = _read(Path(manifest_path))
    if site is None and not skip:
        return [(name, name, fact) for name, fact in facts.items()]
    skipped = frozenset(skip)
    found = ((name, target_of(name, site), fact) for name, fact in facts.items())
    return [
        (name, target, fact)
        for name, target, fact in found
        if target not in skipped and not (site and name.startswith(SCRIPTS))
    ]


def target_of(name: str, site: str | None) -> str:
    """Return where a package's file goes, relative to the prefix; `site` is for noarch Python packages only."""
    if site is None:
        return name
    if name.startswith(SITE):
        return f"{site}/{name[len(SITE) :]}"
    return f"bin/{name[len(SCRIPTS) :]}" if name.startswith(SCRIPTS) else name

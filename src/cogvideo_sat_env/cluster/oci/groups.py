"""Which file of an environment goes into which layer: an update is to change few layers, and small ones.

A package of 20 MB or more has a layer of its own, the others share 16, by a hash of their names: what is in a layer
doesn't depend on which other packages there are. Files that no conda package has (pip's, activation, the receipt) are
in the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path

LARGE = 20_000_000  # bytes
BUCKETS = 16
MOST = 80  # layers of single packages: container runtimes take 127 in all
REST = "environment"


def groups(prefix: Path) -> dict[str, list[str]]:
    """Return the files (and links) of `prefix`, sorted, by the name of their layer; the layers in order of name.

    Raises OSError, ValueError for a record of conda's that can't be read.
    """
    owners: dict[str, str] = {}
    sizes: dict[str, int] = defaultdict(int)
    for record in sorted((prefix / "conda-meta").glob("*.json")):
        found = json.loads(record.read_bytes())
        name = str(found["name"])
        for path in [*found["files"], f"conda-meta/{record.name}"]:
            owners.setdefault(path, name)
    files = sorted(_files(prefix))
    for path in files:
        sizes[owners.get(path, "")] += os.lstat(prefix / path).st_size
    large = sorted((name for name in sizes if name and sizes[name] >= LARGE), key=lambda name: (-sizes[name], name))
    own = set(large[:MOST])
    found_groups: dict[str, list[str]] = defaultdict(list)
    for path in files:
        name = owners.get(path)
        if name is None:
            found_groups[REST].append(path)
        elif name in own:
            found_groups[f"package {name}"].append(path)
        else:
            found_groups[f"packages {_bucket(name):02d}"].append(path)
    return {name: found_groups[name] for name in sorted(found_groups, key=lambda name: (name == REST, name))}


def _bucket(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0] % BUCKETS


def _files(prefix: Path) -> list[str]:
    found = []
    for folder, names, files in os.walk(prefix):
        inside = os.path.relpath(folder, prefix)
        links = [name for name in names if os.path.islink(f"{folder}/{name}")]
        empty = not names and not files
        found += [os.path.normpath(f"{inside}/{name}") for name in [*files, *links]]
        if empty and inside != ".":
            found.append(inside)
    return found

"""One conda-meta record as rattler wrote it, completed: a task of workers.py, because there are megabytes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideo_sat_env.install import own_files
from cogvideo_sat_env.install.package_files import cached_path


def complete_record(
    manifest_path: str, root: str, name: str, url: str, folder: str, asked: Sequence[str],
    more: Sequence[dict[str, Any]], tag: str | None,
) -> None:  # fmt: skip
    """Complete the record `name` in the staged prefix `root` (conda_meta.complete); `manifest_path` names the package.

    `more` are entries of what rattler was not shown; with `tag` those of the bytecode that is there are added.
    """
    with open(f"{root}/conda-meta/{name}", "rb") as stream:
        found = json.load(stream)
    entries = {entry["_path"]: entry for entry in (*found["paths_data"]["paths"], *more)}
    if tag:
        entries |= _bytecode(entries, root, tag)
    paths = [entries[path] for path in sorted(entries)]  # rattler's order isn't always the same
    for entry in paths:
        if entry["path_type"] == "softlink":
            entry.pop("sha256_in_prefix", None)  # conda takes a link that has one for an altered file
        elif entry["path_type"] == "hardlink" and "sha256" in entry:
            entry.setdefault("sha256_in_prefix", entry["sha256"])
    record = {
        **found,
        "url": url,
        "extracted_package_dir": folder,
        "link": {"source": folder, "type": 1},
        "requested_specs": list(asked),
        "files": [entry["_path"] for entry in paths if entry["path_type"] != "directory"],
        "paths_data": {**found["paths_data"], "paths": paths},
    }
    if asked:
        record["requested_spec"] = asked[0]  # the field that conda reads
    own_files.write(Path(root), f"conda-meta/{name}", (json.dumps(record) + "\n").encode("utf-8"))


def _bytecode(entries: Mapping[str, Any], root: str, tag: str) -> dict[str, dict[str, Any]]:
    cached = (cached_path(source, tag) for source in entries if source.endswith(".py"))
    return {
        path: {"_path": path, "path_type": "pyc_file"}
        for path in cached
        if path not in entries and os.path.lexists(f"{root}/{path}")
    }

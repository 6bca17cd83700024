"""Links packages with rattler: a task of workers.py, in a process that does nothing else and is then killed.

rattler's threads go on for a moment after an error and can abort a Python that is shutting down.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rattler import install
from rattler.package_cache import PackageCache, ValidationMode
from rattler.platform import Subdir
from rattler.repo_data import PackageRecord, RepoDataRecord


class _Reporter:
    """Sends one event for each package that is linked. Methods that aren't needed answer any call."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def on_link_start(self, operation: int, package_name: str) -> int:
        self._names[operation] = package_name
        return operation

    def on_link_complete(self, index: int) -> None:
        sys.stdout.write(json.dumps({"event": self._names.get(index, "")}) + "\n")
        sys.stdout.flush()

    def __getattr__(self, name: str) -> object:
        if name.startswith("on_"):
            return lambda *_: 0
        raise AttributeError(name)


def _record(package: dict) -> RepoDataRecord:
    index = Path(package["folder"]) / "info" / "index.json"
    try:
        record = PackageRecord.from_index_json(index, package["size"], package["sha256"], package["md5"] or None)
    except Exception as error:  # any class that rattler has: the message gets the package's name
        raise ValueError(f"{package['name']}: info/index.json: {error}") from error
    # no address: what rattler can't read in the view it would fetch
    return RepoDataRecord(record, package["file_name"], f"file:///dev/null/{package['file_name']}", package["channel"])


def _show(package: dict, shown: Path) -> None:
    """Make the folder that rattler takes for the extracted package: it has only those of its files that it is to link.

    The folders in it are links to the real ones; files are hard links, because rattler takes over their permissions.
    """
    folder = Path(package["folder"])
    if package["paths"] is None:
        shown.symlink_to(folder)
        return
    (shown / "info").mkdir(parents=True)
    (shown / "info" / "paths.json").write_text(json.dumps({"paths": package["paths"], "paths_version": 1}))
    (shown / "info" / "index.json").symlink_to(folder / "info" / "index.json")
    if package["noarch_python"]:  # without entry points: these are made by entry_points.py
        link = {"noarch": {"type": "python"}, "package_metadata_version": 1}
        (shown / "info" / "link.json").write_text(json.dumps(link))
    for name in {entry["_path"].partition("/")[0] for entry in package["paths"]}:
        there = folder / name
        if there.is_dir() and not there.is_symlink():
            (shown / name).symlink_to(there)
        elif os.path.lexists(there):
            os.link(there, shown / name, follow_symlinks=False)


def link(staging: str, prefix: str, platform: str, view: str, packages: Sequence[dict]) -> str | None:
    """Link `packages` (link.py describes them) into `staging`, written for `prefix`; return what is wrong, if anything.

    Each that is linked is told of with a line on standard output. `view` is a new folder for what rattler is shown.
    """

    async def _link() -> None:
        await install(
            [_record(package) for package in packages],
            staging,
            installed_packages=[],
            platform=Subdir(platform),
            execute_link_scripts=False,
            show_progress=False,
            reporter=_Reporter(),
            alternative_target_prefix=prefix,
            # what is in the cache was proven before this process was started
            package_cache=PackageCache.new_layered([Path(view)], validation_mode=ValidationMode.skip()),
        )

    try:
        os.mkdir(view)
        for package in packages:
            _show(package, Path(view) / package["name"])
        asyncio.run(_link())
    except Exception as error:  # any class that rattler has: the text crosses to the parent, which raises
        return str(error)
    return None

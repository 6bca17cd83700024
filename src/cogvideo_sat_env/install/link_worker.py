"""Links packages with rattler, in a process of its own: run by link.py, never imported by it.

A job as one JSON line on standard input; events as JSON lines on standard output. It ends when its input closes, so it
never outlives the process that started it. A process of its own because rattler's threads go on for a moment after an
error and can abort a Python that is shutting down.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path

from rattler import install
from rattler.package_cache import PackageCache, ValidationMode
from rattler.platform import Subdir
from rattler.repo_data import PackageRecord, RepoDataRecord


def _tell(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


class _Reporter:
    """Sends one event for each package that is linked. Methods that aren't needed answer any call."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def on_link_start(self, operation: int, package_name: str) -> int:
        self._names[operation] = package_name
        return operation

    def on_link_complete(self, index: int) -> None:
        _tell("linked", name=self._names.get(index, ""))

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


async def _link(job: dict) -> None:
    view = Path(job["view"])
    view.mkdir()
    for package in job["packages"]:
        _show(package, view / package["name"])
    await install(
        [_record(package) for package in job["packages"]],
        job["staging"],
        installed_packages=[],
        platform=Subdir(job["platform"]),
        execute_link_scripts=False,
        show_progress=False,
        reporter=_Reporter(),
        alternative_target_prefix=job["prefix"],
        # what is in the cache was proven before this process was started
        package_cache=PackageCache.new_layered([view], validation_mode=ValidationMode.skip()),
    )


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(3)


def main() -> None:
    """Read the job, link, tell how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides: it ends this process when it is interrupted
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        asyncio.run(_link(job))
    except Exception as error:  # any class that rattler has: the text crosses to the parent, which raises
        _tell("error", kind=type(error).__name__, text=str(error))
        os._exit(1)
    _tell("done")
    os._exit(0)  # at once: see above


if __name__ == "__main__":
    main()

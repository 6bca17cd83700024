"""The conda-meta folder of a prefix: one record for each package, and the history."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.permissions import own_mode, umask
from cogvideo_sat_env.install import own_files
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.job import Job
from cogvideo_sat_env.install.layout import Placed
from cogvideo_sat_env.install.workers import WorkerPool


def complete(job: Job, placed: Sequence[Placed], root: Path, tag: str | None, workers: WorkerPool) -> None:
    """Complete the records that rattler wrote in the staged prefix `root`, and write the history.

    Added are what rattler was not shown (entry points, files that another package has, too), the bytecode of noarch
    Python packages (`tag` is in its names), the match specs of the user's that name the package, and where package
    and archive come from. What is the prefix's own gets the modes of the umask.
    Raises VerificationError for a package without a record, OSError.
    """
    requested = job.plan.requested
    linked = diskspace.same_file_system(job.cache, root)
    tasks = []
    for each in placed:
        package = each.package
        record = root / "conda-meta" / f"{package.record_name}.json"
        if not record.exists():
            raise VerificationError(f"{package.artefact.file_name} was not linked: {record.name} is missing", None)
        # py-rattler 0.28's own parameter refuses its own MatchSpec
        asked = [s for s in requested if re.split(r"[ <>=!~\[]", s, maxsplit=1)[0] == package.artefact.name]
        tasks.append({
            "manifest_path": str(package.manifest.path), "root": str(root), "name": record.name,
            "url": package.artefact.url, "folder": str(package.folder), "asked": asked,
            "more": _not_linked(each, root), "tag": tag if package.noarch_python else None,
        })  # fmt: skip
    completed = workers.start("complete_record", tasks)
    for each in placed:
        _follow_umask(root, each.own if linked else each.targets)
    history = _history([each.package for each in placed], requested)
    own_files.write(root, own_files.HISTORY, history.encode("utf-8"))
    completed()


def _follow_umask(root: Path, names: Iterable[str]) -> None:
    """Give files that were made for the staged prefix the modes of the umask; those of the cache keep theirs."""
    mask = umask()
    for name in names:
        try:
            found = os.lstat(f"{root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            continue  # another package's was taken
        mode = own_mode(found.st_mode, mask)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and stat.S_IMODE(found.st_mode) != mode:
            os.chmod(root / name, mode)


def _not_linked(each: Placed, root: Path) -> list[dict[str, Any]]:
    """Return the entries of what rattler was not shown: conda lists that, too."""
    scripts = set(each.scripts)
    lost = each.lost - scripts
    found = [_lost(entry, target, root) for entry, target in each.files() if target in lost] if lost else []
    for path in sorted(scripts):
        here = {"_path": path, "path_type": "unix_python_entry_point"}
        found.append(here | ({"size_in_bytes": (root / path).stat().st_size} if path not in each.lost else {}))
        if (root / path).is_file():
            found[-1]["sha256_in_prefix"] = sha256_file(root / path)
    return found


def _lost(entry: Mapping[str, Any], target: str, root: Path) -> dict[str, Any]:
    """Return the entry of a file in whose place another package's lies: what is there is what it is compared with."""
    kept = {name: entry[name] for name in ("path_type", "sha256") if entry.get(name)}
    there = root / target
    if entry.get("path_type") == "softlink" or there.is_symlink():
        return {"_path": target, "path_type": "softlink"}
    return {"_path": target, **kept, "sha256_in_prefix": sha256_file(there)}


def _history(packages: Sequence[ExtractedPackage], requested: Sequence[str]) -> str:
    # the newest build time of the packages: the same environment gets the same history
    newest = max((float(p.index.get("timestamp") or 0) for p in packages), default=0.0)
    moment = datetime.fromtimestamp(newest / 1000 if newest > 1e11 else newest, timezone.utc)
    names = sorted(f"+{p.artefact.channel}/{p.artefact.subdir}::{p.record_name}" for p in packages)
    head = [f"==> {moment:%Y-%m-%d %H:%M:%S} <==", "# cmd: satenv create"]
    return "\n".join([*head, *names, f"# update specs: {json.dumps(list(requested))}"]) + "\n"

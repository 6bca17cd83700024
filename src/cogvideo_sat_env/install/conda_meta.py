"""The conda-meta folder of a prefix: one record for each package, and the history."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.install.archive import Package
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.link import VIEW, plain_job
from cogvideo_sat_env.install.workers import WorkerPool


def complete(
    packages: Sequence[Package], layout: Layout, staging: Path, requested: Sequence[str], tag: str | None,
    workers: WorkerPool, linked: bool,
) -> None:  # fmt: skip
    """Complete the records that rattler wrote in `staging`, and write the history.

    rattler has written what it linked. Added are the plain files (if they were `linked` apart), the bytecode of noarch
    Python packages (`tag` is in its names), the match specs of `requested` that name the package, and where the package
    is extracted in place of the folder that rattler was shown.
    Raises VerificationError for a package without a record, PrefixError (no space).
    """
    jobs = []
    for number, package in enumerate(packages):
        record = staging / "conda-meta" / f"{package.record_name}.json"
        if not record.exists():
            raise VerificationError(f"{package.artefact.file_name} was not linked: {record.name} is missing", None)
        # py-rattler 0.28's own parameter refuses its own MatchSpec
        asked = [s for s in requested if re.split(r"[ <>=!~\[]", s, maxsplit=1)[0] == package.artefact.name]
        jobs.append({
            **plain_job(package, layout, number, staging), "record": str(record), "asked": asked, "linked": linked,
            "renamed": [str(staging / VIEW / package.record_name), str(package.folder)],
            "tag": tag if package.noarch_python else None,
        })  # fmt: skip
    work = workers.start("complete_record", jobs)
    (staging / "conda-meta" / "history").write_text(_history(packages, requested), encoding="utf-8")
    work.wait()


def _history(packages: Sequence[Package], requested: Sequence[str]) -> str:
    # the newest build time of the packages: the same environment gets the same history
    newest = max((float(p.index.get("timestamp") or 0) for p in packages), default=0.0)
    moment = datetime.fromtimestamp(newest / 1000 if newest > 1e11 else newest, timezone.utc)
    names = sorted(f"+{p.artefact.channel}/{p.artefact.subdir}::{p.record_name}" for p in packages)
    head = [f"==> {moment:%Y-%m-%d %H:%M:%S} <==", "# cmd: satenv create"]
    return "\n".join([*head, *names, f"# update specs: {json.dumps(list(requested))}"]) + "\n"

"""The receipt in the prefix: what was installed from where, so that "nothing to do" is known in a moment."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.install import own_files, staging
from cogvideo_sat_env.install.job import SCHEMA, Job
from cogvideo_sat_env.install.own_files import PENDING
from cogvideo_sat_env.install.own_files import RECEIPT as PATH


def build(job: Job, files: Mapping[str, Mapping[str, object]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the receipt of what `job` made; `files` are those of no conda package, `facts` what staging found."""
    plan = job.plan
    return {
        "schema": SCHEMA,
        "fingerprint": plan.fingerprint,
        "tool_version": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "prefix": str(job.embedded),
        "source": str(plan.source),
        "platform": plan.platform,
        **plan.facts,
        "packages": [
            {"name": a.name, "version": a.version, "build": a.build, "sha256": a.sha256, "url": a.url}
            for a in sorted(plan.artefacts, key=lambda a: a.name)
        ],
        "pip": [
            {"name": p.name, "version": p.version, "sha256": p.sha256, "file_name": p.file_name}
            for p in sorted(plan.pip_pins, key=lambda p: p.name.lower())
        ],
        **facts,
        "files": {name: dict(entry) for name, entry in sorted(files.items())},
    }


def write(root: Path, receipt: Mapping[str, Any]) -> None:
    """Write `receipt` into the prefix at `root`."""
    own_files.write(root, PATH, (json.dumps(receipt, indent=1) + "\n").encode("utf-8"))


def read(prefix: Path) -> dict[str, Any] | None:
    """Return the receipt of `prefix`, or None when it has none that this version understands."""
    try:
        found = json.loads((prefix / PATH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return None
    whole = all(isinstance(found.get(key), kind) for key, kind in (("packages", list), ("pip", list), ("files", dict)))
    return found if whole else None


def missing(prefix: Path, receipt: Mapping[str, Any]) -> list[str]:
    """Return what of the receipt is no longer in `prefix`: conda records, and files by pip or by this program.

    Looks at names and sizes only; the doctor compares the bytes.
    """
    records = {path.name for path in (prefix / "conda-meta").glob("*.json")}
    expected = [f"{p['name']}-{p['version']}-{p['build']}.json" for p in receipt["packages"]]
    gone = [f"conda-meta/{name}" for name in expected if name not in records]
    if (prefix / PENDING).exists():
        gone.append(PENDING)  # its link scripts were cut off
    if any(p["name"] == "python" for p in receipt["packages"]) and not os.path.exists(prefix / "bin" / "python"):
        gone.append("bin/python")  # with wheels a link to the host's Python, which may have been removed
    for name, entry in receipt["files"].items():
        if name.endswith(".pyc"):  # Python makes them again
            continue
        try:
            size = (prefix / name).stat().st_size
        except OSError:
            gone.append(name)
        else:  # variables may be the user's own affair: `conda env config vars set`
            if size != entry["size"] and name != "conda-meta/state":
                gone.append(name)
    return gone


def moved_from(prefix: Path, receipt: Mapping[str, Any]) -> str | None:
    """Return where the environment at `prefix` was made, when it was moved or copied from there; else None.

    Another name of the same folder (a link on the way) is no move.
    """
    made = receipt.get("prefix")
    if not isinstance(made, str):  # of an older version: its activation script knows
        try:
            script = (prefix / "bin" / own_files.SOURCED).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return None if shlex.quote(str(prefix)) in script else "another place"
    if made == str(prefix):
        return None
    try:
        return None if os.path.samefile(made, prefix) else made
    except OSError:
        return made


def holds(prefix: Path, receipt: Mapping[str, Any] | None, *digests: str) -> bool:
    """Tell, without network and in a moment, whether `prefix` is whole and one of `digests` stands for it.

    A digest is a plan's fingerprint, or one of the files that the plan is made of, before these are read ("inputs"): a
    lock takes longer to parse than "nothing to do" may take.
    """
    if receipt is None or not {receipt.get("fingerprint"), receipt.get("inputs")} & set(digests):
        return False
    return moved_from(prefix, receipt) is None and not missing(prefix, receipt)


def is_up_to_date(prefix: Path, receipt: Mapping[str, Any] | None, *digests: str) -> bool:
    """Tell whether nothing is to be done: `holds`, and no killed run has left anything that could be removed."""
    return holds(prefix, receipt, *digests) and not (
        staging.any_left(prefix) and os.access(staging.home(prefix), os.W_OK)
    )

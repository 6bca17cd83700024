"""The receipt in the prefix: what was installed from where, so that "nothing to do" is told in a moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.install.staging import PENDING

SCHEMA = 1
PATH = "etc/cogvideo-sat-env/receipt.json"


def fingerprint(
    *,
    platform: str,
    artefacts: Sequence[CondaArtefact],
    pip_pins: Sequence[PipPin],
    variables: Mapping[str, str],
    activation_version: str,
    source: str,
) -> str:
    """Return the SHA-256 over everything that decides what the prefix will hold; order doesn't matter.

    `source` is the kind (channel, mirror, wheels), not the address: the bytes are the same wherever they lie.
    """
    facts = {
        "schema": SCHEMA,
        "platform": platform,
        "conda": sorted((a.sha256, a.url) for a in artefacts),
        "pip": sorted((p.name, p.version, p.sha256) for p in pip_pins),
        "variables": dict(variables),
        "activation": activation_version,
        "source": source_kind(source),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()


def source_kind(source: str) -> str:
    """Return the kind of a source as a receipt tells it: of the first, where several were tried one after the other."""
    return source.partition(" ")[0].partition("=")[0]


def build(
    *,
    fingerprint: str,
    source: str,
    platform: str,
    artefacts: Sequence[CondaArtefact],
    pip_pins: Sequence[PipPin],
    files: Mapping[str, Mapping[str, object]],
    link_scripts: Sequence[str],
    collisions: Sequence[str],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the receipt. `facts` are the caller's (variant, lock's SHA-256, data_only, not_provided, …)."""
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "tool_version": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": source,
        "platform": platform,
        **facts,
        "packages": [
            {"name": a.name, "version": a.version, "build": a.build, "sha256": a.sha256, "url": a.url}
            for a in sorted(artefacts, key=lambda a: a.name)
        ],
        "pip": [
            {"name": p.name, "version": p.version, "sha256": p.sha256, "file_name": p.file_name}
            for p in sorted(pip_pins, key=lambda p: p.name.lower())
        ],
        "link_scripts_not_run": list(link_scripts),
        "collisions": list(collisions),
        "files": {name: dict(entry) for name, entry in sorted(files.items())},
    }


def write(root: Path, receipt: Mapping[str, Any]) -> None:
    """Write `receipt` into the prefix at `root`."""
    path = root / PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # never through a link into the cache
    path.write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")


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
    if any(p["name"] == "python" for p in receipt["packages"]) and not (prefix / "bin" / "python").exists():
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


def is_up_to_date(prefix: Path, fingerprint: str) -> bool:
    """Tell, without network and in a moment, whether `prefix` already is what `fingerprint` stands for."""
    receipt = read(prefix)
    return receipt is not None and receipt.get("fingerprint") == fingerprint and not missing(prefix, receipt)

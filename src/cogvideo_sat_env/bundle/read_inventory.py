"""What is in it, for whatever a user names: a bundle, or what report/sources.py reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.bundle.container import Bundle, open_bundle
from cogvideo_sat_env.bundle.front import first_bytes
from cogvideo_sat_env.lock.frozen import records
from cogvideo_sat_env.report import sources
from cogvideo_sat_env.report.facts import Facts
from cogvideo_sat_env.report.inventory import Inventory, inventory, of_artefact, of_pip, only
from cogvideo_sat_env.source.mirror.selection import part_from_json


def read(what: str | Path, platforms: Sequence[str] = ()) -> tuple[Inventory, ...]:
    """Return an inventory for each platform (a bundle: each variant) of `what` that is in `platforms` (none: all).

    Raises what report.sources.read and open_bundle raise.
    """
    path = Path(what)
    if not is_bundle(path):
        return sources.read(what, platforms)
    return only(of_bundle(open_bundle(path), str(what)), platforms)


def is_bundle(path: Path) -> bool:
    """Tell whether a file begins as a bundle does."""
    first = first_bytes()
    try:
        if not path.is_file():  # a pipe can be read only once
            return False
        with open(path, "rb") as stream:
            return stream.read(len(first)) == first
    except OSError:
        return False


def of_bundle(bundle: Bundle, source: str) -> tuple[Inventory, ...]:
    """Return what each variant of a bundle installs, with what its own channels' metadata says of the packages.

    Of a delta without its base, that is known of new packages only. Raises VerificationError for damaged metadata.
    """
    known: dict[str, dict] = {}
    for path, member in sorted(bundle.members.items()):
        if path.endswith("/repodata.json") and (member.offset is not None or bundle.base is not None):
            known |= {str(entry.get("sha256")): entry for entry in records(bundle.read(path), path)}
    facts = Facts({member.sha256: member.size for member in bundle.members.values()}, lambda: known)
    try:
        return tuple(_variant(source, name, data, facts) for name, data in sorted(bundle.manifest["parts"].items()))
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(f"{source}: its list of packages can't be read: {error}", None) from error


def _variant(source: str, name: str, data: dict[str, Any], facts: Facts) -> Inventory:
    part = part_from_json(name, data)
    installed = {entry["sha256"]: entry["installed_bytes"] for entry in data["conda"]}
    packages = [
        replace(of_artefact(item.artefact, facts), installed_size=installed[item.artefact.sha256] or None)
        for item in part.conda
    ]
    packages += [of_pip(pin, facts) for pin in part.pip]
    return inventory(source, "bundle", part.platform, packages, name, part.lock_sha256)

"""`satenv freeze`: the part of the channels' and the index's metadata that the locks' solves can see."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cogvideo_sat_env.base.artefacts import channel_url, split_url
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, SourceError
from cogvideo_sat_env.base.printable import some
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.lock import pip_index, solve
from cogvideo_sat_env.lock.freeze_index import freeze_projects
from cogvideo_sat_env.lock.frozen import FORMAT, MANIFEST, asked_channels
from cogvideo_sat_env.lock.make import Solver
from cogvideo_sat_env.lock.read import Lock, read_locks
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.variants import derive, read_variants

LEVEL = 19
# of a record: where it was read, and what neither a solver nor a lock looks at
_DROPPED = ("url", "channel", "fn", "arch", "platform", "legacy_bz2_md5", "legacy_bz2_size", "license_family")


def freeze(root: Path, out: Path, *, frozen: Path | None, until: datetime | None = None, progress: Progress) -> dict:
    """Write into the folder `out` the records of every name that the project's specs can lead to; return its manifest.

    All versions and builds of them, sorted, as `<channel>/<subdir>/repodata.json.zst`, and what pip's resolver asks an
    index for; the same bytes for the same metadata. `frozen` is such a folder to read from in place of the channels,
    and of the index where it has a part of one; what was published after `until` (UTC) is left out, for locks that were
    made so. `out` is replaced as a whole.
    Raises InputError, SourceError, both also where something that the project's locks hold is not there any more.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise InputError(f"{out}: not empty, and not made by this command (no {MANIFEST})", "name another folder")
    environment = read_environment(root / "environment.yml")
    names, subdirs = asked_names(root, environment)
    with asked_channels(environment.channels, frozen) as channels:
        solve.require_answers(list(channels))
        progress.say(f"Reading the metadata of {len(names)} names and of all that they can need")
        records = solve.named(list(channels), names, subdirs, recursive=True, until=until)
    present = [variant for variant in read_variants() if (root / variant.lock).is_file()]
    locks = {variant.id: lock for variant, lock in read_locks(root, present)}
    projects = freeze_projects(root, environment, locks, Solver(frozen, until=until), progress)
    _require_locked(locks, records, projects)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        made = Path(folder) / "made"
        files = _write(made, _sort(records, channels), progress)
        if projects:
            facts = {"projects": len(projects), "releases": sum(len(p.releases) for p in projects.values())}
            files[pip_index.PATH] = facts | _pack(made / pip_index.PATH, pip_index.dump(projects))
        manifest = {"format": FORMAT, "channels": [channel_url(name) for name in environment.channels],
                    "names": names, "subdirs": subdirs, "files": files}  # fmt: skip
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.replace(Path(folder) / "before")
        made.replace(out)
    return manifest


def asked_names(root: Path, environment: Environment) -> tuple[list[str], list[str]]:
    """Return the conda names that the spec asks for in any variant, from pip or conda, and the subdirs to look in."""
    names: set[str] = {"pip"}
    subdirs = {"noarch"}
    for variant in read_variants():
        own = derive(environment, variant, root / variant.environment)
        names |= {spec.name for spec in own.conda} | {load_names().to_conda(spec.name).lower() for spec in own.pip}
        subdirs.add(variant.platform)
    return sorted(names), sorted(subdirs)


def _sort(records: list[dict], channels: Mapping[str, str]) -> dict[str, dict[str, dict]]:
    """Return the records by path of their repodata below the folder and by file name."""
    found: dict[str, dict[str, dict]] = {}
    for record in records:
        asked, subdir, file_name = split_url(record["url"])
        path = f"{urlsplit(channels[asked]).path.strip('/')}/{subdir}/repodata.json.zst"
        kept = {key: value for key, value in record.items() if key not in _DROPPED}
        found.setdefault(path, {})[file_name] = kept
    return found


def _require_locked(
    locks: Mapping[str, Lock], records: Sequence[Mapping], projects: Mapping[str, pip_index.Project]
) -> None:
    """Raise SourceError for what the locks hold and the metadata to be frozen does not: it couldn't repeat them."""
    known = {record.get("sha256") for record in records}
    known |= {file.sha256 for project in projects.values() for file in project.files}
    held = {item.file_name: item.sha256 for lock in locks.values() for item in lock.files}
    missing = sorted(name for name, sha256 in held.items() if sha256 not in known)
    if missing:
        raise SourceError(
            f"the metadata lacks what the locks hold: {some(missing)}",
            f"freeze what they were made from, or lock anew first: {satenv('lock')}",
        )


def _write(folder: Path, parts: Mapping[str, dict[str, dict]], progress: Progress) -> dict[str, dict]:
    def one(path: str) -> tuple[str, dict]:
        records = parts[path]
        content = {
            "info": {"subdir": path.split("/")[-2]},
            "packages": {name: record for name, record in records.items() if not name.endswith(".conda")},
            "packages.conda": {name: record for name, record in records.items() if name.endswith(".conda")},
        }
        plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        names = len({record["name"] for record in records.values()})
        return path, {"records": len(records), "names": names} | _pack(folder / path, plain)

    with ThreadPoolExecutor() as pool:
        files = dict(pool.map(one, sorted(parts)))
    records, size = (sum(facts[key] for facts in files.values()) for key in ("records", "size"))
    progress.say(f"Frozen: {records} records, {human_bytes(size)}")
    return files


def _pack(path: Path, plain: bytes) -> dict[str, Any]:
    """Write `plain`, packed, to `path`; return what the manifest says of the file."""
    import zstandard  # only locking needs it

    packed = zstandard.ZstdCompressor(level=LEVEL).compress(plain)
    path.parent.mkdir(parents=True)
    path.write_bytes(packed)
    return {"size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}

"""`satenv freeze`: the part of the channels' metadata that the locks' solves can see, to lock again years later."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from cogvideo_sat_env.base.artefacts import channel_url, split_url
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.lock import solve
from cogvideo_sat_env.lock.frozen import FORMAT, MANIFEST, asked_channels
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.variants import derive, read_variants

LEVEL = 19
# of a record: where it was read, and what neither a solver nor a lock looks at
_DROPPED = ("url", "channel", "fn", "arch", "platform", "legacy_bz2_md5", "legacy_bz2_size", "license_family")


def freeze(root: Path, out: Path, *, frozen: Path | None, progress: Progress) -> dict:
    """Write into the folder `out` the records of every name that the project's specs can lead to; return its manifest.

    All versions and builds of them, sorted, as `<channel>/<subdir>/repodata.json.zst`; the same bytes for the same
    metadata. `frozen` is such a folder to read from in place of the channels. `out` is replaced as a whole.
    Raises InputError, SourceError.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise InputError(f"{out}: not empty, and not made by this command (no {MANIFEST})", "name another folder")
    environment = read_environment(root / "environment.yml")
    names, subdirs = asked_names(root, environment)
    with asked_channels(environment.channels, frozen) as channels:
        solve.require_answers(list(channels))
        progress.say(f"Reading the metadata of {len(names)} names and of all that they can need")
        records = solve.closure(list(channels), names, subdirs)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        made = Path(folder) / "made"
        files = _write(made, _sort(records, channels), progress)
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


def _write(folder: Path, parts: Mapping[str, dict[str, dict]], progress: Progress) -> dict[str, dict]:
    import zstandard  # only locking needs it

    def one(path: str) -> tuple[str, dict]:
        records = parts[path]
        content = {
            "info": {"subdir": path.split("/")[-2]},
            "packages": {name: record for name, record in records.items() if not name.endswith(".conda")},
            "packages.conda": {name: record for name, record in records.items() if name.endswith(".conda")},
        }
        plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(plain)
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(packed)
        names = len({record["name"] for record in records.values()})
        facts = {"records": len(records), "names": names, "size": len(packed)}
        return path, {**facts, "sha256": hashlib.sha256(packed).hexdigest()}

    with ThreadPoolExecutor() as pool:
        files = dict(pool.map(one, sorted(parts)))
    records, size = (sum(facts[key] for facts in files.values()) for key in ("records", "size"))
    progress.say(f"Frozen: {records} records, {human_bytes(size)}")
    return files

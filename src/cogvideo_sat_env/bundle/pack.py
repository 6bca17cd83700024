"""`satenv bundle pack`: what goes into a bundle, from a mirror or from a channel made of wheels."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.base.timestamp import timestamp
from cogvideo_sat_env.bundle import tool_wheels
from cogvideo_sat_env.bundle.container import open_bundle
from cogvideo_sat_env.bundle.write import Item, write_bundle
from cogvideo_sat_env.fetch.index import Index
from cogvideo_sat_env.fetch.pip_config import index_urls
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.wanted import Policy, Wanted, artefact_path
from cogvideo_sat_env.lock.read import public_text
from cogvideo_sat_env.report import sbom, signature
from cogvideo_sat_env.report.facts import NONE, Facts
from cogvideo_sat_env.report.inventory import inventory, of_artefact, of_pip
from cogvideo_sat_env.source.mirror.repodata import Info, channel_files, read_infos
from cogvideo_sat_env.source.mirror.selection import OWN, OWN_LOCKS, WHEELHOUSE, CondaFile, Part
from cogvideo_sat_env.source.wheels.names import NotProvided

_PROJECT = (
    "environment.yml", "conda-lock.yml", "environments", "locks", "recipe", "scripts", "src", "README.md", "LICENSE",
    "pyproject.toml",
)  # fmt: skip
_NOT_OURS = re.compile(r"/__pycache__/|\.pyc$|/\.|\.egg-info/|~$")  # caches, hidden files, what editors leave


@dataclass(frozen=True)
class Content:
    """What is to be packed: parts, and where each of their files is. `python` says what the target needs."""

    parts: Sequence[Part]
    place: Mapping[str, Path]  # a conda file's path in a mirror, or a pip file's name -> file
    source: str  # "lock" or "wheels"
    pythons: Sequence[str]
    python_needed: str = ""
    specs: Sequence[str] = ()
    not_provided: Sequence[NotProvided] = ()
    own_lock: Path | None = None  # the lock of the parts that isn't the project's


@dataclass(frozen=True)
class Packed:
    """What was written."""

    path: Path
    id: str
    bytes: int
    members: int
    volumes: tuple[str, ...]
    signature: Path | None
    seconds: float
    python_needed: str

    def to_json(self) -> dict[str, Any]:
        """Return it as documented in docs/airgap.md; the keys are stable."""
        return {
            "bundle": str(self.path), "id": self.id, "bytes": self.bytes, "members": self.members,
            "volumes": list(self.volumes), "signature": str(self.signature) if self.signature else None,
            "python_needed": self.python_needed, "seconds": round(self.seconds, 3), "exit_code": 0,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people, with what to type on the target."""
        lines = [f"{self.path}: {self.members} members, {human_bytes(self.bytes)}, manifest SHA-256 {self.id}"]
        lines += [f"volume {name}" for name in self.volumes]
        if self.signature:
            lines.append(f"signed: {self.signature}")
        lines += [f"on the target, {self.python_needed}:", f"python3 {self.path.name} install -p PREFIX"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Shape:
    """What a bundle becomes: a delta `since` another, in volumes of `volume_size` bytes, signed with `key`."""

    since: Path | None = None
    volume_size: int | None = None
    key: Path | None = None


def pack(
    out: Path, content: Content, shape: Shape, root: Path, cache: Path, policy: Policy, progress: Progress
) -> Packed:
    """Write the bundle `out`. The same content gives the same bytes.

    Raises VerificationError when a file isn't what its lock says, PrefixError without space, and what fetching raises.
    """
    start = time.perf_counter()
    out = out.absolute()
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder", "make it, or name another file")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; expected the file to write", f"e.g. {out / 'sat.pyz'}")
    key = shape.key
    if key is not None and not key.is_file():
        raise InputError(f"{key}: no such file; expected a private key", "name one of OpenSSH's with --sign")
    base = _base(shape.since)
    tool, pins, sets = _tool_items(root, cache, content, policy, progress)
    infos = read_infos(content.parts, lambda item: content.place[item.path])
    items = [*_package_items(content, infos), *_project_items(root), *tool]
    if content.own_lock and any(OWN in part.variant for part in content.parts):
        items.append(
            Item(f"project/{OWN_LOCKS}/{content.own_lock.name}", public_text(content.own_lock).encode("utf-8"))
        )
    items.append(Item("sbom.cdx.json", _bill(content, infos, pins)))
    total = sum(item.size for item in items)
    diskspace.require(out.parent, total, "the bundle")
    facts = {
        "schema": 1, "name": "cogvideo-sat-env", "tool_version": __version__, "source": content.source,
        "made": _made(infos),
        "parts": {part.variant: _part_facts(part, content, infos) for part in content.parts},
        "tool": {"key": _tool_key(root), "wheels": sets}, "specs": list(content.specs),
        "not_provided": [asdict(item) for item in content.not_provided],
    }  # fmt: skip
    with (
        diskspace.watch(out.parent, "the bundle", total),
        progress.task(f"Packing {len(items)} files", total, "bytes") as task,
    ):
        write_bundle(out, items, facts, volume_size=shape.volume_size, base=base, seen=task.advance)
    made = open_bundle(out)
    signed = signature.sign(out, made.tail, key) if key else None
    return Packed(
        out, made.id, made.manifest["data_size"] + len(made.tail), len(items),
        tuple(v["name"] for v in made.manifest["volumes"]), signed, time.perf_counter() - start,
        content.python_needed or f"with any Python {content.pythons[0]} to {content.pythons[-1]}",
    )  # fmt: skip


def _bill(content: Content, infos: Mapping[str, Info], pins: Sequence[PipPin]) -> bytes:
    """Return the SBOM of everything that the bundle installs or brings for itself."""
    indices = {item.artefact.sha256: infos[item.path].index for part in content.parts for item in part.conda}
    known = Facts({}, lambda: indices)
    found = [
        inventory("bundle", "bundle", part.platform, [*(of_artefact(item.artefact, known) for item in part.conda),
                  *(of_pip(pin, NONE) for pin in part.pip)], part.variant, part.lock_sha256)
        for part in content.parts
    ]  # fmt: skip
    return sbom.render(found, tools=[of_pip(pin, NONE) for pin in pins])


def _made(infos: Mapping[str, Info]) -> int:
    """Return when the content was made, in seconds: SOURCE_DATE_EPOCH, else the newest package's date."""
    stamps = [info.index.get("timestamp") for info in infos.values()]  # milliseconds
    return timestamp(max((stamp for stamp in stamps if isinstance(stamp, int)), default=0) // 1000)


def _base(since: Path | None) -> tuple[str, str, frozenset[str]] | None:
    if since is None:
        return None
    old = open_bundle(since)
    if old.manifest["base"] is not None:
        raise InputError(
            f"{since}: is itself a delta on {old.manifest['base']['name']}", "name a whole bundle with --since"
        )
    return old.name, old.id, frozenset(m.sha256 for m in old.members.values())


def _package_items(content: Content, infos: Mapping[str, Info]) -> list[Item]:
    items: dict[str, Item] = {}
    for part in content.parts:
        for item in part.conda:
            path = f"channel/{item.path}"
            items[path] = Item(path, content.place[item.path], item.artefact.sha256)
        for pin in part.pip:
            path = f"{WHEELHOUSE}/{pin.file_name}"
            items[path] = Item(path, content.place[pin.file_name], pin.sha256)
    files, _ = channel_files(content.parts, infos, lambda item: content.place[item.path].stat().st_size)
    return [*items.values(), *(Item(f"channel/{path}", text) for path, text in files.items())]


def _part_facts(part: Part, content: Content, infos: Mapping[str, Info]) -> dict[str, Any]:
    def sized(item: CondaFile) -> CondaFile:
        return replace(item, artefact=replace(item.artefact, size=content.place[item.path].stat().st_size))

    facts = replace(part, conda=tuple(sized(item) for item in part.conda)).to_json()
    for entry in facts["conda"]:
        entry["installed_bytes"] = infos[entry["path"]].installed_bytes
    installed = sum(entry["installed_bytes"] for entry in facts["conda"])
    return {**facts, "installed_bytes": installed, "python": content.python_needed}


def _project_items(root: Path) -> list[Item]:
    if not (root / "src").is_dir():
        raise InputError(
            f"{root}: holds the locks, not the program that a bundle carries", "pack with scripts/satenv of a checkout"
        )
    items = []
    for name in _PROJECT:
        top = root / name
        paths = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in paths:
            relative = path.relative_to(root).as_posix()
            if path.is_file() and not _NOT_OURS.search(f"/{relative}"):
                items.append(Item(f"project/{relative}", path.read_bytes(), None, os.access(path, os.X_OK)))
    return items


def _tool_items(
    root: Path, cache: Path, content: Content, policy: Policy, progress: Progress
) -> tuple[list[Item], list[PipPin], dict[str, list[str]]]:
    """Fetch the tool's wheels into the cache; return them as members, as pins, and by Python and platform."""
    requirements = tool_wheels.read_pins(root / tool_wheels.REQUIREMENTS)
    index = Index(index_urls() if requirements else ())
    chosen: dict[str, tuple[PipPin, str]] = {}
    sets = {}
    for platform in sorted({part.platform for part in content.parts}):
        for python in content.pythons:
            found = {
                pin.file_name: (pin, url) for pin, url in tool_wheels.choose(requirements, index, python, platform)
            }
            sets[f"{python}/{platform}"] = sorted(f"tool/wheels/{name}" for name in found)
            chosen |= found
    wanted = [
        Wanted(pin.file_name, artefact_path(cache, pin.sha256, pin.file_name), pin.sha256, (url,), pin.size)
        for pin, url in chosen.values()
    ]
    fetch_files(wanted, title="The tool's own wheels", what="the tool's wheels", progress=progress, policy=policy)
    items = [Item(f"tool/wheels/{w.name}", w.path, w.sha256) for w in wanted]
    return items, [pin for pin, _ in chosen.values()], sets


def _tool_key(root: Path) -> str:
    """Return the name that scripts/satenv gives to the tool's environment: the POSIX checksum of its pins."""
    try:
        with open(root / tool_wheels.REQUIREMENTS, "rb") as stream:
            answer = subprocess.run(["cksum"], stdin=stream, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingToolError(f"cksum can't be run: {error}", "install coreutils") from error
    return answer.split()[0]

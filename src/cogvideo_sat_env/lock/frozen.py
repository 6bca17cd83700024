"""Frozen metadata in a folder, to lock against offline: `<channel>/<subdir>/repodata.json[.zst]`, part of an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cogvideo_sat_env.base.artefacts import channel_url
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.lock import pip_index

MANIFEST = "manifest.json"
FORMAT = 2  # 1 had channels only, and is still read
_REMEDY = "restore the folder, or freeze again"
SUBDIRS = ("noarch", "linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")


@contextmanager
def asked_channels(
    channels: Sequence[str], frozen: Path | None, asked: Mapping[str, str] | None = None
) -> Iterator[Mapping[str, str]]:
    """Yield the URLs to ask, each with the base URL of the channel (a name or URL) that it stands for.

    They differ where `asked` says, by base URL, that a channel is read elsewhere, and with `frozen` metadata.
    """
    asked = asked or {}
    real = [channel_url(channel) for channel in channels]
    rest = [url for url in real if url not in asked]
    if frozen is None or not rest:
        yield {asked.get(url, url): url for url in real}
        return
    with frozen_channels(frozen, rest) as local:
        where = {**asked, **dict(zip(rest, local, strict=True))}
        yield {where[url]: url for url in real}


@contextmanager
def frozen_channels(folder: Path, channels: Sequence[str]) -> Iterator[list[str]]:
    """Unpack the metadata of `channels` (base URLs) from `folder`; yield the file:// URL of each, in their order.

    Raises InputError when a channel isn't there or its metadata is not repodata, VerificationError when it isn't what
    the folder's manifest says.
    """
    _verify(folder)
    with scratch_folder("satenv-frozen-") as unpacked:
        local = []
        for channel in channels:
            name = urlsplit(channel).path.strip("/")
            source, target = folder / name, unpacked / name
            subdirs = sorted(path for path in source.glob("*") if path.is_dir()) if source.is_dir() else []
            if not subdirs:
                raise InputError(
                    f"{source}: no such channel in the frozen metadata; expected <subdir>/repodata.json.zst there",
                    "name the folder that holds the channels with --frozen",
                )
            for subdir in subdirs:
                out = target / subdir.name / "repodata.json"
                out.parent.mkdir(parents=True)
                packed, plain = subdir / "repodata.json.zst", subdir / "repodata.json"
                found = packed if packed.is_file() else plain
                try:
                    content = pip_index.unpacked(found.read_bytes(), found.name)
                    data = json.loads(content)
                    if not isinstance(data, dict) or not isinstance(data.get("packages"), dict):
                        raise ValueError("expected a mapping with 'packages'")
                    out.write_bytes(content)
                except (OSError, ValueError) as error:
                    raise InputError(f"{found}: not repodata: {error}", "fetch the frozen metadata again") from error
            for name in SUBDIRS:  # mamba and conda take a missing subdir of a file:// channel for an error
                empty = target / name / "repodata.json"
                if not empty.exists():
                    empty.parent.mkdir(parents=True, exist_ok=True)
                    nothing = {"info": {"subdir": name}, "packages": {}, "packages.conda": {}}
                    empty.write_text(json.dumps(nothing), encoding="utf-8")
            local.append(target.as_uri())
        yield local


def records(content: bytes, name: str) -> Iterator[dict]:
    """Yield the records of one repodata.json, packed by zstd or not. Raises InputError, calling it `name`."""
    try:
        data = json.loads(pip_index.unpacked(content, name))
        found = [record for key in ("packages", "packages.conda") for record in (data.get(key) or {}).values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: not repodata: {error}", _REMEDY) from error
    yield from found


def frozen_projects(folder: Path) -> dict[str, pip_index.Project] | None:
    """Return what was frozen of a package index; None where the folder has only channels.

    Raises InputError, VerificationError when it isn't what the folder's manifest says.
    """
    _verify(folder)
    path = folder / pip_index.PATH
    return pip_index.parse(path.read_bytes(), str(path)) if path.is_file() else None


def frozen_hashes(folder: Path) -> set[str]:
    """Return the SHA-256 of every package and file that is named in frozen metadata with a manifest.

    Raises InputError, VerificationError.
    """
    _verify(folder)
    found: set[str] = set()
    for name in read_manifest(folder)["files"]:
        try:
            plain = pip_index.unpacked((folder / name).read_bytes(), name)
        except ValueError as error:
            raise InputError(f"{folder / name}: not packed with zstd: {error}", _REMEDY) from error
        found |= {digest.decode() for digest in re.findall(rb'"sha256":\s*"([0-9a-f]{64})"', plain)}
    return found


def read_manifest(folder: Path) -> dict:
    """Return the manifest of frozen metadata. Raises InputError when it is malformed, or of another format."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
        if version in (1, FORMAT) and not all(isinstance(facts["sha256"], str) for facts in manifest["files"].values()):
            raise ValueError("a file without its SHA-256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the manifest of frozen metadata: {error}", _REMEDY) from error
    if version not in (1, FORMAT):
        raise InputError(f"{path}: format {version!r}; expected {FORMAT}", "use the program that wrote it")
    return manifest


def _verify(folder: Path) -> None:
    """Compare the folder with its manifest, if it has one: `satenv freeze` writes it, a mirror has none."""
    if not (folder / MANIFEST).is_file():
        return
    files = {name: facts["sha256"] for name, facts in read_manifest(folder)["files"].items()}
    there = {file.relative_to(folder).as_posix() for file in folder.glob("*/**/*.json*") if file.is_file()}
    for name in sorted(there | set(files)):
        found = sha256_file(folder / name) if name in there else "no such file"
        expected = files.get(name, "none: the manifest doesn't name it")
        if found != expected:
            raise VerificationError(f"{folder / name}: expected SHA-256 {expected}, found {found}", _REMEDY)

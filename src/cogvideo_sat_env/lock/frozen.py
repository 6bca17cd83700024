"""Frozen channel metadata: `<channel>/<subdir>/repodata.json[.zst]` in a folder, to lock against offline."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cogvideo_sat_env.base.errors import InputError

SUBDIRS = ("noarch", "linux-64", "linux-aarch64", "osx-64", "osx-arm64", "win-64")


@contextmanager
def frozen_channels(folder: Path, channels: Sequence[str]) -> Iterator[list[str]]:
    """Unpack the metadata of `channels` (base URLs) from `folder`; yield the file:// URL of each, in their order.

    Raises InputError when a channel isn't there or its metadata is not repodata.
    """
    import zstandard  # only locking needs it

    with tempfile.TemporaryDirectory(prefix="satenv-frozen-") as unpacked:
        local = []
        for channel in channels:
            name = urlsplit(channel).path.strip("/")
            source, target = folder / name, Path(unpacked) / name
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
                try:
                    if packed.is_file():
                        with open(packed, "rb") as stream, open(out, "wb") as sink:
                            zstandard.ZstdDecompressor().copy_stream(stream, sink)
                    else:
                        out.write_bytes(plain.read_bytes())
                    _check(out)
                except (OSError, ValueError, zstandard.ZstdError) as error:
                    found = packed if packed.is_file() else plain
                    raise InputError(f"{found}: not repodata: {error}", "fetch the frozen metadata again") from error
            for name in SUBDIRS:  # mamba and conda take a missing subdir of a file:// channel for an error
                empty = target / name / "repodata.json"
                if not empty.exists():
                    empty.parent.mkdir(parents=True, exist_ok=True)
                    content = {"info": {"subdir": name}, "packages": {}, "packages.conda": {}}
                    empty.write_text(json.dumps(content), encoding="utf-8")
            local.append(target.as_uri())
        yield local


def _check(path: Path) -> None:
    with open(path, encoding="utf-8") as stream:
        data = json.load(stream)
    if not isinstance(data, dict) or not isinstance(data.get("packages"), dict):
        raise ValueError("expected a mapping with 'packages'")

"""The same bytes from the same inputs: rattler-build writes time and channels of the build into every package."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import zstandard

from cogvideo_sat_env.base.files import replacing

LEVEL = 9  # of zstd: 16 takes fifteen times as long and saves 4 %
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def repack(package: Path, target: Path, timestamp: int) -> None:
    """Write the .conda archive `package` to `target`, every time in it being `timestamp` (seconds since 1970).

    The channels that it was built with are left out: paths and hosts of the machine, which others have elsewhere.
    """
    with (
        replacing(target) as partial,
        zipfile.ZipFile(package) as source,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as out,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".tar.zst"):
                content = _tar(content, timestamp)
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = 0o644 << 16
            out.writestr(info, content)


def _tar(packed: bytes, timestamp: int) -> bytes:
    plain = io.BytesIO()
    reader = zstandard.ZstdDecompressor().stream_reader(packed)
    with (
        tarfile.open(fileobj=reader, mode="r|") as source,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as out,
    ):
        for member in source:
            content = source.extractfile(member) if member.isfile() else None
            if member.name in ("info/index.json", "info/about.json") and content is not None:
                about = json.load(content)
                if member.name == "info/index.json":
                    about["timestamp"] = timestamp * 1000
                else:
                    about.pop("channels", None)
                text = (json.dumps(about, indent=2) + "\n").encode()
                content, member.size = io.BytesIO(text), len(text)
            member.mtime = timestamp
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            out.addfile(member, content)
    return zstandard.ZstdCompressor(level=LEVEL).compress(plain.getvalue())

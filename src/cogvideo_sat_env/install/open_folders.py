"""Packs an archive anew, with folder members that let their owner in."""

from __future__ import annotations

import bz2
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

import zstandard


def with_open_folders(archive: Path, folder: Path) -> Path:
    """Return a copy of `archive` in `folder` that differs in the modes of its folder members alone.

    Raises OSError, BadZipFile, ZstdError, ValueError (no tar).
    """
    copy = folder / archive.name
    try:
        if archive.name.endswith(".tar.bz2"):
            with bz2.open(archive) as source, bz2.open(copy, "wb", compresslevel=1) as target:
                _open_folders(source, target)
            return copy
        with ZipFile(archive) as old, ZipFile(copy, "w") as new:
            for name in old.namelist():
                with old.open(name) as source, new.open(name, "w", force_zip64=True) as target:
                    if name.endswith(".tar.zst"):
                        unpacked = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
                        with zstandard.ZstdCompressor(1).stream_writer(target, closefd=False) as packed:
                            _open_folders(unpacked, packed)
                    else:
                        shutil.copyfileobj(source, target)
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error
    return copy


def _open_folders(source: BinaryIO, target: BinaryIO) -> None:
    with tarfile.open(fileobj=source, mode="r|") as old, tarfile.open(fileobj=target, mode="w|") as new:
        for member in old:
            if member.isdir():
                member.mode = 0o755
            new.addfile(member, old.extractfile(member) if member.isreg() else None)

"""An environment as one file: squashfs, packed with zstd, the same bytes each time, its facts beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, MissingToolError, SatenvError
from cogvideo_sat_env.base.files import PARTIAL, replacing, write_atomically
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.cluster.image_facts import ENDING, ImageFacts, facts_path, read_facts
from cogvideo_sat_env.cluster.tree import Make, made_for
from cogvideo_sat_env.create.create import CreateRequest
from cogvideo_sat_env.install import receipt

AT = Path("/tmp/cogvideo-sat")  # on every node, and each node's own
LEVEL = 6  # of zstd: 15, which is mksquashfs' default, takes four times as long and saves a few percent


def make_image(
    make: Make, request: CreateRequest, image: Path, at: Path, release: Path | None, progress: Progress
) -> ImageFacts:
    """Write the environment of `request` as a squashfs file at `image`, and IMAGE.json beside it; return its facts.

    `make`      what makes an environment of a Request: create(), or a function that installs it from a bundle. It is
                called once, with a prefix beside the package cache and options.seen_at = `at`/NAME.
    `image`     …/NAME.sqfs; it is there whole or not at all. One that is there already, of what is in `release` and
                for the same path, is left as it is.
    `at`        the node-local folder where nodes mount or unpack it (AT by default): the environment works at
                `at`/NAME only.
    `release`   the same release as a folder on the shared file system, which nodes fall back to; None for none.

    Raises MissingToolError without mksquashfs, InputError for a path that can't be, PrefixError for no space, and
    whatever `make` raises. Nothing is left after an error.
    """
    if image.suffix != ENDING:
        raise InputError(f"{image}: expected a name that ends with {ENDING}", f"e.g. {image.name}{ENDING}")
    seen_at = at / image.name[: -len(ENDING)]
    tool = require_tool()
    wanted = (receipt.read(release) or {}).get("fingerprint") if release else None
    if wanted and (there := _same(image, wanted, seen_at, progress)):
        return there
    image.parent.mkdir(parents=True, exist_ok=True)
    for left in image.parent.glob(f".{image.name}{PARTIAL[1:]}"):
        left.unlink()
    with made_for(seen_at, make, request, progress) as place:
        found = receipt.read(place) or {}
        if wanted and found.get("fingerprint") != wanted:
            raise SatenvError(
                f"{image}: what was made for it isn't what is in {release}", "lock or source was changed: run it again"
            )
        if there := _same(image, str(found.get("fingerprint")), seen_at, progress):
            return there
        size, files = _measure(place)
        with replacing(image) as partial:
            with progress.task(f"Packing {files:,} files, {human_bytes(size)}", None, "files"):
                _pack(tool, place, partial)
            facts = ImageFacts(
                partial.stat().st_size, sha256_file(partial), str(seen_at), str(release or ""), size, files,
                str(found.get("fingerprint")), str(found.get("platform")),
            )  # fmt: skip
            facts_path(image).unlink(missing_ok=True)
        write_atomically(facts_path(image), facts.to_json().encode("utf-8"))
    progress.say(f"{image}: {human_bytes(facts.size)} for {seen_at}; on a node: {satenv('stage', image)}")
    return facts


def require_tool() -> str:
    """Return the path of mksquashfs. Raises MissingToolError."""
    tool = shutil.which("mksquashfs")
    if tool is None:
        raise MissingToolError(
            "no mksquashfs on PATH; it writes one-file images",
            "install squashfs-tools (Debian and Fedora call it so), or a conda package: squashfs-tools",
        )
    return tool


def _same(image: Path, fingerprint: str, seen_at: Path, progress: Progress) -> ImageFacts | None:
    try:
        facts = read_facts(image)
        if (facts.fingerprint, facts.prefix) != (fingerprint, str(seen_at)):
            return None
        whole = image.stat().st_size == facts.size and sha256_file(image) == facts.sha256
    except (InputError, OSError):
        return None
    if whole:
        progress.say(f"{image}: is there already, from the same lock")
    return facts if whole else None


def _measure(place: Path) -> tuple[int, int]:
    """Return the bytes on a disk, in blocks of 4 KiB, and the number of files and folders below `place`."""
    size = count = 0
    for folder, names, files in os.walk(place):
        count += len(files) + len(names)
        size += sum(-(-os.lstat(f"{folder}/{name}").st_size // 4096) * 4096 for name in files) + 4096 * len(names)
    return size, count


def _pack(tool: str, place: Path, partial: Path) -> None:
    command = [
        tool, str(place), str(partial), "-noappend", "-no-progress", "-quiet", "-comp", "zstd",
        "-Xcompression-level", str(LEVEL), "-all-root", "-no-xattrs", "-mkfs-time", str(EPOCH),
        "-processors", str(len(os.sched_getaffinity(0))),
    ]  # fmt: skip
    environment = {name: text for name, text in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    if done.returncode == 0 and partial.is_file():
        return
    words = " ".join((done.stderr or done.stdout).split())[-300:]
    if any(mark in words for mark in diskspace.MARKS):
        raise diskspace.full(partial.parent, "the image")
    if "nvalid option" in words or "nvalid compressor" in words or "Compressor" in words:
        raise MissingToolError(
            f"{tool}: too old or without zstd: {words}", "install squashfs-tools 4.4 or newer, with zstd"
        )
    raise SatenvError(f"{tool} ended with {done.returncode}: {words}", "see the message of mksquashfs")

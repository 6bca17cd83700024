"""The folder of clips and captions that SFTDataset walks: what pairs, and what it takes silently for no caption.

Upstream: every *.mp4 below the folder is a clip; its caption is the first line of the same path with `.mp4` -> `.txt`
and `videos` -> `labels`, wherever these stand in it; where there is no such file the caption is empty, without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cogvideo_sat_env.doctor.sat.finding import WARNING, Finding
from cogvideo_sat_env.doctor.sat.rules import Run
from cogvideo_sat_env.doctor.sat.weights import LFS_START, resolve

_SHOWN = 3
_OTHER = (".mov", ".avi", ".mkv", ".webm", ".MP4", ".m4v")


@dataclass
class ClipFolder:
    """What is in one data folder; paths as strings."""

    path: Path
    clips: list[str] = field(default_factory=list)
    without_caption: list[str] = field(default_factory=list)
    empty_caption: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    captions_alone: int = 0
    undecodable: list[str] = field(default_factory=list)


def caption_of(clip: str) -> str:
    """Return where upstream looks for a clip's caption."""
    return clip.replace(".mp4", ".txt").replace("videos", "labels")


def walk(path: Path) -> ClipFolder:
    """Return what SFTDataset makes of a folder. Raises OSError for one that can't be read."""
    found = ClipFolder(path)
    texts, used = set(), set()
    for root, _, names in os.walk(path, onerror=_raise):
        for name in sorted(names):
            file = os.path.join(root, name)
            if name.endswith(".txt"):
                texts.add(file)
            elif name.endswith(_OTHER):
                found.ignored.append(file)
            if not name.endswith(".mp4"):
                continue
            found.clips.append(file)
            with open(file, "rb") as stream:
                if stream.read(64).startswith(LFS_START):
                    found.pointers.append(file)
            caption = caption_of(file)
            if not os.path.exists(caption):
                found.without_caption.append(file)
                continue
            used.add(caption)
            try:
                with open(caption, encoding="utf-8") as text:
                    if not text.readline().rstrip("\n"):
                        found.empty_caption.append(caption)
            except UnicodeDecodeError:
                found.undecodable.append(caption)
    found.captions_alone = len(texts - used)
    return found


def _raise(error: OSError) -> None:
    raise error


def folders(run: Run) -> list[tuple[str, str]]:
    """Return (place in the config, path) of every data folder."""
    found = []
    for name in ("train_data", "valid_data", "test_data"):
        values = run.config.get(f"args.{name}") or []
        found += [(f"args.{name}", value) for value in ([values] if isinstance(values, str) else values)]
    return [(at, str(value)) for at, value in found]


def examine(run: Run) -> Iterator[Finding]:
    """Yield what is wrong with the data folders of a training run with SFTDataset."""
    target = str(run.config.get("data.target", ""))
    if not run.training or not target.startswith("data_video."):
        return
    seen = set()
    for at, value in folders(run):
        if value in seen:
            continue
        seen.add(value)
        yield from _shards(run, at, value) if target.endswith("VideoDataset") else _clips(run, at, value)


def _shards(run: Run, at: str, value: str) -> Iterator[Finding]:
    path = resolve(run, value.split(";")[0].split("@")[0])
    if "{" in value or "://" in value:
        return
    if not path.exists():
        yield run.found("data", at, f"{value}: no such folder of shards", "correct the path; it is relative to sat/")


def _clips(run: Run, at: str, value: str) -> Iterator[Finding]:
    path = resolve(run, value)
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        yield run.found("data", at, f"{value}: {what}; expected a folder with videos/*.mp4 and labels/*.txt",
                        "correct the path; it is relative to sat/", error="AssertionError")  # fmt: skip
        return
    try:
        found = walk(path)
    except OSError as error:
        yield run.found("data", at, f"{error.filename or path}: {error.strerror}", "check its permissions")
        return
    if not found.clips:
        more = f" ({len(found.ignored)} files end otherwise, e.g. {found.ignored[0]})" if found.ignored else ""
        yield run.found("data", at, f"{value}: no file ends in .mp4{more}",
                        "convert them: ffmpeg -i CLIP.mov -c:v libx264 -pix_fmt yuv420p videos/CLIP.mp4")  # fmt: skip
        return
    if found.pointers:
        yield run.found("data", at, f"{len(found.pointers)} of {len(found.clips)} clips are Git LFS pointers, e.g. "
                        f"{found.pointers[0]}", "git lfs install && git lfs pull in that clone")  # fmt: skip
    if found.empty_caption:
        yield run.found("captions", at, f"{len(found.empty_caption)} captions have an empty first line, which ends"
                        f" upstream's reader: {_some(found.empty_caption)}", "write the caption into the first line",
                        error="IndexError: list index out of range")  # fmt: skip
    if found.undecodable:
        yield run.found("captions", at, f"{len(found.undecodable)} captions are not UTF-8: {_some(found.undecodable)}",
                        "iconv -t utf-8", error="UnicodeDecodeError")  # fmt: skip
    if found.without_caption:
        count = f"{len(found.without_caption)} of {len(found.clips)} clips"
        spare = f"; {found.captions_alone} .txt files belong to no clip" if found.captions_alone else ""
        wanted = caption_of(found.without_caption[0])
        yield run.found("captions", at, f"{count} have no caption and are trained with an empty one, silently: "
                        f"{_some(found.without_caption)}{spare}", f"write {wanted} and so on",
                        status=WARNING)  # fmt: skip
    if found.ignored:
        yield run.found("data", at, f"{len(found.ignored)} files are not read, because only .mp4 is:"
                        f" {_some(found.ignored)}", "rename or convert them to .mp4", status=WARNING)  # fmt: skip


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (" …" if len(paths) > _SHOWN else "")

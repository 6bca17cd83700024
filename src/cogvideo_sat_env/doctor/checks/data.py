"""Data: upstream's two ways in, a folder of clips with captions and sharded tar streams, by several workers."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import _clips
from ._probe import ProbeOutcome, ProbeRequest, failed, one_line, passed

SHARDS = 2
PER_SHARD = 6
TAKE = 36  # shards are drawn with replacement: 2 ** -5 that the second is never among six draws, so the seed is fixed
_SEED = 3
_LEDGER = ("webdataset-0.2.88",)

WORKERS = 2
SIZE = (64, 96)  # height, width of a sample
_WAIT = 90  # seconds for one batch of the workers
_CLIP = (128, 96)  # width, height of the clips
_WANTED_FPS, _MOST, _SKIP = 4, 9, 3  # frames a second and frames of a sample; frames left out at both ends


def webdataset(request: ProbeRequest) -> ProbeOutcome:
    """Stream two shards, named by a brace range, through SimpleDistributedWebDataset and MetaDistributedWebDataset."""
    from importlib import metadata

    from sat.data_utils.webds import MetaDistributedWebDataset, SimpleDistributedWebDataset

    version = metadata.version("webdataset")
    expected = _write_shards(request.workdir)
    braces = str(request.workdir / f"shard-{{000..{SHARDS - 1:03d}}}.tar")
    kinds: dict[str, Callable[[], Any]] = {
        "simple": lambda: SimpleDistributedWebDataset(braces, _pass_on, _SEED, shuffle_buffer=4),
        "with meta": lambda: MetaDistributedWebDataset(
            braces, _pass_on, _SEED, meta_names=["caption", "fps"], shuffle_buffer=4, include_dirs=None
        ),
        "folder": lambda: MetaDistributedWebDataset(
            "", _pass_on, _SEED, meta_names=["caption", "fps"], include_dirs=str(request.workdir), shuffle_buffer=4
        ),
    }
    for kind, make in kinds.items():
        try:
            source = iter(make())
            samples = [next(source) for _ in range(TAKE)]  # it never ends: StopIteration is an error
        except TypeError as error:  # ResampledShards got `deterministic` as its seed function
            if "not callable" not in str(error):
                raise
            return failed(f"webdataset {version} breaks SAT's shard sampling: {error}", ledger=_LEDGER, version=version)
        problem = _check(samples, expected, with_meta=kind != "simple")
        if problem:
            return failed(f"webdataset {version}, {kind}: {problem}", "pip install 'webdataset<0.2.88'")
    try:
        next(iter(_as_upstream(str(request.workdir / "shard-000.tar"))))
    except TypeError as error:
        return failed(
            f"webdataset {version} breaks the shard sampling of CogVideo's sgm/webds.py: {error}", ledger=_LEDGER,
            version=version,
        )  # fmt: skip
    return passed(
        f"webdataset {version} streamed {len(kinds) * TAKE} samples from {SHARDS} shards through SAT's classes",
        version=version,
    )


def _as_upstream(url: str) -> Any:
    """Return ResampledShards made as CogVideo's sgm/webds.py makes it: by position. SAT's own is patched."""
    import sys

    from webdataset import ResampledShards

    return ResampledShards(url, sys.maxsize, lambda: _SEED, True)


def folder(request: ProbeRequest) -> ProbeOutcome:
    """Load a folder of clips with captions by several workers; a broken clip ends in an error, as upstream has it."""
    from torch.utils.data import DataLoader, Dataset

    root = request.workdir / "set"
    for name in ("videos", "labels"):
        (root / name).mkdir(parents=True)
    for name, frames in (("long", 40), ("short", 12)):
        _clips.write_clip(root / "videos" / f"{name}.mp4", *_CLIP, frames=frames)
        (root / "labels" / f"{name}.txt").write_text(f"a {name} clip\nnot this line\n", encoding="utf-8")
    _clips.write_clip(root / "videos" / "wordless.mp4", *_CLIP)
    paths = sorted((root / "videos").glob("*.mp4"))

    class Clips(Dataset):  # type: ignore[misc,type-arg,unused-ignore]
        """The arithmetic and the layout of files of upstream's SFTDataset."""

        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> dict[str, Any]:
            caption = Path(str(paths[index]).replace("videos", "labels")).with_suffix(".txt")
            text = caption.read_text(encoding="utf-8").splitlines()[0] if caption.exists() else ""
            return {"mp4": load(str(paths[index])), "txt": text}

    every_second = [_SKIP + 2 * step for step in range(_MOST)]  # clips of 8 frames a second, 4 wanted
    # the short one has less than wanted: each of its frames but the outer three, then the last again
    expected = {"a long clip": every_second, "": every_second, "a short clip": [*range(3, 9), 8, 8, 8]}
    loader = DataLoader(Clips(), batch_size=1, num_workers=WORKERS, timeout=_WAIT)
    found = {batch["txt"][0]: batch["mp4"][0] for batch in loader}
    if set(found) != set(expected):
        return failed(f"the captions {sorted(expected)} became {sorted(found)}")
    for text, frames in expected.items():
        problem = _wrong_sample(found[text], frames)
        if problem:
            return failed(f"the clip {text!r}, by {WORKERS} workers: {problem}")
    broken = root / "videos" / "broken.mp4"
    broken.write_bytes(b"not a video")
    paths = [broken]
    try:
        next(iter(DataLoader(Clips(), batch_size=1, num_workers=1, timeout=_WAIT)))
    except Exception as error:  # decord raises RuntimeError or its own; torch sends it on from the worker
        output = one_line(error)
    else:
        return failed("a file that is no video was loaded as one")
    return passed(
        f"{len(expected)} clips with captions by {WORKERS} workers: frames, rate, size and range as upstream reckons"
        " them; a broken clip ends the loader with an error",
        error=output,
    )


def shards(request: ProbeRequest) -> ProbeOutcome:
    """Decode clips from shards by several workers; skip a corrupt clip and a truncated shard, as upstream does."""
    from sat.data_utils.webds import MetaDistributedWebDataset
    from torch.utils.data import DataLoader

    whole, cut = _clip_shards(request.workdir)
    log = request.workdir / "skipped"
    log.mkdir()

    def decode(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in source:
            try:
                frames = load(io.BytesIO(sample["mp4"]))
            except Exception as error:  # upstream prints it and goes on
                with (log / str(os.getpid())).open("a", encoding="utf-8") as stream:
                    stream.write(f"{sample['__key__'].rpartition('/')[2]} {one_line(error)}\n")
                continue
            yield {"mp4": frames, "txt": sample["caption"], "worker": os.getpid()}

    dataset = MetaDistributedWebDataset(
        str(request.workdir / "clips-{000..002}.tar"), decode, _SEED, meta_names=["caption"], shuffle_buffer=4
    )
    loader = iter(DataLoader(dataset, batch_size=1, num_workers=WORKERS, timeout=_WAIT))
    seen: Counter[str] = Counter()
    workers = set()
    for _ in range(TAKE):
        batch = next(loader)
        seen[batch["txt"][0]] += 1
        workers.add(int(batch["worker"][0]))
        problem = _wrong_sample(batch["mp4"][0], [_SKIP + 2 * step for step in range(_MOST)])
        if problem:
            return failed(f"the sample {batch['txt'][0]!r}, by {WORKERS} workers: {problem}")
    del loader
    skipped = Counter(line.split()[0] for path in log.iterdir() for line in path.read_text().splitlines())
    details = {"samples": dict(seen), "skipped": dict(skipped)}
    if set(seen) != whole:
        return failed(f"of the whole clips {sorted(whole)} came {sorted(seen)}", **details)
    if set(skipped) != cut:
        return failed(f"of the corrupt clips {sorted(cut)} were skipped {sorted(skipped) or 'none'}", **details)
    if len(workers) != WORKERS:
        return failed(f"{len(workers)} of {WORKERS} workers delivered samples", **details)
    return passed(
        f"{TAKE} samples of {len(whole)} clips from 3 shards by {WORKERS} workers; {sum(skipped.values())} reads of a"
        " corrupt clip and the rest of a truncated shard were skipped, as upstream does",
        **details,
    )


def load(clip: str | io.BytesIO) -> Any:
    """Return a clip as one sample: frames chosen by rate, scaled and cropped to SIZE, between -1 and 1 (T, C, H, W)."""
    import decord
    import numpy as np
    from torch import cat
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    decord.bridge.set_bridge("torch")
    reader = decord.VideoReader(uri=clip, height=-1, width=-1)
    length, rate = len(reader), reader.get_avg_fps()
    start, end = _SKIP, length - _SKIP
    if length / rate * _WANTED_FPS > _MOST:
        end = int(start + _MOST / _WANTED_FPS * rate)
    step = max((end - start) // _MOST, 1)
    frames = reader.get_batch(np.arange(start, min(end, length)))[::step][:_MOST]
    frames = cat([frames, frames[-1:].expand(_MOST - len(frames), *frames.shape[1:])])  # the last again, not black
    frames = frames.permute(0, 3, 1, 2)
    scaled = resize(frames, size=[SIZE[0] * 3 // 2, SIZE[1]], interpolation=InterpolationMode.BICUBIC)
    return (center_crop(scaled, list(SIZE)) - 127.5) / 127.5


def _wrong_sample(sample: Any, expected: list[int]) -> str | None:
    wanted = (_MOST, 3, *SIZE)
    if tuple(sample.shape) != wanted:
        return f"its shape is {tuple(sample.shape)}, expected {wanted}"
    low, high = float(sample.min()), float(sample.max())
    if low < -1.0 or high > 1.0 or high - low < 1.0:
        return f"its values go from {low:.2f} to {high:.2f}, expected most of -1 to 1"
    found = [_clips.frame_index((frame.permute(1, 2, 0) + 1) * 127.5) for frame in sample]
    return None if found == expected else f"its frames are {found}, expected {expected}"


def _clip_shards(folder: Path) -> tuple[set[str], set[str]]:
    """Write three shards: a whole one, one with a corrupt clip, one cut off in its third clip.

    Returns the captions of the whole clips and the keys of the corrupt ones.
    """
    path = folder / "clip.mp4"
    _clips.write_clip(path, *_CLIP)
    clip = path.read_bytes()
    contents = {
        "000": {"a0": clip, "a1": clip},
        "001": {"b0": clip, "b1": b"\0" * 5000},
        "002": {"c0": clip, "c1": clip, "c2": clip},
    }
    for name, clips in contents.items():
        _write_shard(folder / f"clips-{name}.tar", clips)
    last = folder / "clips-002.tar"
    with tarfile.open(last) as archive:
        start = archive.getmember("c2.mp4").offset_data
    last.write_bytes(last.read_bytes()[: start + len(clip) // 2])
    return {f"caption {key}" for key in ("a0", "a1", "b0", "c0", "c1")}, {"b1"}


def _pass_on(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from source


def _write_shards(folder: Path) -> dict[str, bytes]:
    """Write shards of SHARDS times PER_SHARD samples; return content by key."""
    expected = {}
    for shard in range(SHARDS):
        contents = {key: f"content of {key}".encode() * 40 for key in (f"{shard}{i:03d}" for i in range(PER_SHARD))}
        _write_shard(folder / f"shard-{shard:03d}.tar", contents)
        expected |= contents
    return expected


def _write_shard(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, content in contents.items():
            for suffix, data in (("mp4", content), ("id", key.encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    lines = [json.dumps({"key": key, "caption": f"caption {key}", "fps": 8}) for key in contents]
    path.with_suffix(".meta.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _check(samples: list[dict[str, Any]], expected: dict[str, bytes], with_meta: bool) -> str | None:
    for sample in samples:
        key = sample["__key__"].rsplit("/", 1)[-1]
        if sample["mp4"] != expected.get(key):
            return f"sample {key} has other content than was written"
        if with_meta and (sample.get("caption") != f"caption {key}" or sample.get("fps") != 8):
            return f"sample {key} lost its caption or fps from the .meta.jsonl file"
    seen = {sample["__key__"].rsplit("/", 1)[-1][0] for sample in samples}
    return None if len(seen) == SHARDS else f"only shard {', '.join(sorted(seen))} of the range was read"

"""Data: samples streamed from tar shards through SAT's own dataset classes, as CogVideo's VideoDataset does."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ._probe import Outcome, Request, failed, passed

SHARDS = 2
PER_SHARD = 6
TAKE = 36  # shards are drawn with replacement: 2 ** -5 that the second is never among six draws, so the seed is fixed
_SEED = 3
_LEDGER = ("webdataset-0.2.88",)


def webdataset(request: Request) -> Outcome:
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
            samples = _take(iter(make()), TAKE)
        except TypeError as error:  # ResampledShards got `deterministic` as its seed function
            if "not callable" not in str(error):
                raise
            return failed(f"webdataset {version} breaks SAT's shard sampling: {error}", ledger=_LEDGER, version=version)
        problem = _check(samples, expected, with_meta=kind != "simple")
        if problem:
            return failed(f"webdataset {version}, {kind}: {problem}", "pip install 'webdataset<0.2.88'")
    return passed(
        f"webdataset {version} streamed {len(kinds) * TAKE} samples from {SHARDS} shards through SAT's classes",
        version=version,
    )


def _pass_on(source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from source


def _take(source: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [next(source) for _ in range(count)]  # resampled streams never end: StopIteration is an error


def _write_shards(folder: Path) -> dict[str, bytes]:
    """Write the shards with .id and .mp4 members and the .meta.jsonl beside each; return content by key."""
    expected = {}
    for shard in range(SHARDS):
        keys = [f"{shard}{index:03d}" for index in range(PER_SHARD)]
        with tarfile.open(folder / f"shard-{shard:03d}.tar", "w") as archive:
            for key in keys:
                expected[key] = f"content of {key}".encode() * 40
                for suffix, content in (("mp4", expected[key]), ("id", key.encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        lines = [json.dumps({"key": key, "caption": f"caption {key}", "fps": 8}) for key in keys]
        (folder / f"shard-{shard:03d}.meta.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return expected


def _check(samples: list[dict[str, Any]], expected: dict[str, bytes], with_meta: bool) -> str | None:
    for sample in samples:
        key = sample["__key__"].rsplit("/", 1)[-1]
        if sample["mp4"] != expected.get(key):
            return f"sample {key} has other content than was written"
        if with_meta and (sample.get("caption") != f"caption {key}" or sample.get("fps") != 8):
            return f"sample {key} lost its caption or fps from the .meta.jsonl file"
    seen = {sample["__key__"].rsplit("/", 1)[-1][0] for sample in samples}
    return None if len(seen) == SHARDS else f"only shard {', '.join(sorted(seen))} of the range was read"

"""The records of a mirror are those of the channel, field by field: no bound is lost on the way through the lock."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

import packages
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.source.mirror.repodata import record, write_channels
from cogvideo_sat_env.source.mirror.selection import CondaFile, Part, read_part
from cogvideo_sat_env.spec.variants import read_variants

PROJECT = Path(__file__).parents[3]


def locked(*depends: str) -> CondaFile:
    artefact = CondaArtefact("a", "1", "0", "noarch", "https://x/c", "a-1-0.conda", "", "5" * 64, "", None, depends)
    return CondaFile("c/noarch/a-1-0.conda", artefact)


@pytest.mark.parametrize("variant", ["linux-64-cuda", "osx-arm64-data"])
def test_records_are_the_channels_own_but_for_what_only_a_file_tells(frozen_urls: list[str], variant: str) -> None:
    part = read_part(PROJECT, next(v for v in read_variants() if v.id == variant))
    channels: dict[tuple[str, str], dict] = {}
    for url in frozen_urls:
        for path in Path(url2pathname(urlsplit(url).path)).glob("*/repodata.json"):
            data = json.loads(path.read_text())
            channels[path.parent.parent.name, path.parent.name] = data["packages"] | data["packages.conda"]
    for item in part.conda:
        channel, subdir, name = item.path.rsplit("/", 2)
        genuine = channels[channel, subdir][name]
        index = {key: value for key, value in genuine.items() if key not in ("md5", "sha256", "size")}
        assert record(item, index, genuine["size"]) == genuine
    assert len(part.conda) > 200


@pytest.mark.parametrize(
    ("own", "lock", "made"),
    [
        (["libarrow 24.0.0 h3e4_9_cpu"], ["libarrow 24.0.0"], ["libarrow 24.0.0 h3e4_9_cpu"]),
        (["b * cxx17*", "b >=2,<3"], ["b *,>=2,<3"], ["b * cxx17*", "b >=2,<3"]),
        (["python >=3.10", "python"], ["python >=3.10"], ["python >=3.10", "python"]),
        (["b[version='>=2',build='x*']"], ["b >=2"], ["b[version='>=2',build='x*']"]),
        (["b<9"], ["b <9"], ["b<9"]),
        (["b >=1", "gone"], ["b >=1,<2"], ["b >=1,<2"]),
        (["b >=1 x_*", "b <9"], ["b >=2", "new"], ["b >=2", "new"]),
        ([], [], []),
    ],
)
def test_what_a_lock_cannot_tell_stays_and_what_it_tells_differently_counts(own, lock, made) -> None:
    index = {"name": "a", "version": "1", "build": "0", "depends": own}
    assert record(locked(*lock), index, 7)["depends"] == made


def test_a_channel_with_awkward_names_is_read_by_the_engine(tmp_path: Path) -> None:
    names = [("x264", "1!164.3095", "h166bdaf_2"), ("_openmp_mutex", "4.5", "2_gnu"), ("local", "1.0+cu128", "py_0")]
    for name, version, build in names:
        packages.make_package(
            packages.Spec(name, version, build, noarch="generic"), tmp_path / "deep" / "chan", "noarch"
        )
    found = [
        packages.artefact(path, "https://conda.example.org/deep/chan") for path in (tmp_path / "deep").rglob("*.conda")
    ]
    part = Part("v", "linux-64", "l", "0", ("deep/chan",), tuple(CondaFile(a.channel_path, a) for a in found), ())
    assert write_channels(tmp_path, [part]) == {"deep/chan": {"linux-64": 0, "noarch": 3}}
    empty = json.loads((tmp_path / "deep/chan/linux-64/repodata.json").read_text())
    assert empty == {"info": {"subdir": "linux-64"}, "packages": {}, "packages.conda": {}, "removed": [],
                     "repodata_version": 1}  # fmt: skip
    from rattler import Channel, Subdir
    from rattler.repo_data import Gateway

    async def ask() -> list:
        channel = Channel((tmp_path / "deep/chan").as_uri())
        return await Gateway().query([channel], [Subdir("noarch")], [name for name, *_ in names], recursive=False)

    records = [record for group in asyncio.run(ask()) for record in group]
    assert {(r.name.normalized, str(r.version), str(r.build)) for r in records} == set(names)
    for entry in records:
        path = Path(url2pathname(urlsplit(str(entry.url)).path))
        assert path.is_file() and packages.artefact(path, "x").sha256 == entry.sha256.hex()


def test_a_package_of_another_name_than_locked_is_refused() -> None:
    with pytest.raises(VerificationError, match="expected a 1 0, found a 2 0"):
        record(locked(), {"name": "a", "version": "2", "build": "0"}, 7)

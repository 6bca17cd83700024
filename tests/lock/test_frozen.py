"""Frozen channel metadata: as it is published, and broken."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import zstandard

from cogvideo_sat_env.base.errors import InputError, SolveError
from cogvideo_sat_env.lock.frozen import frozen_channels
from cogvideo_sat_env.lock.solve import lookup, solve

RECORD = {
    "name": "tiny",
    "version": "1.0",
    "build": "0",
    "build_number": 0,
    "subdir": "noarch",
    "depends": [],
    "sha256": "a" * 64,
    "md5": "b" * 32,
    "size": 7,
}
CHANNEL = "https://conda.anaconda.org/mine"


def write(folder: Path, data: bytes, name: str = "repodata.json.zst") -> None:
    path = folder / "mine" / "noarch" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["repodata.json", "repodata.json.zst"])
def test_plain_and_packed_metadata_are_solved(tmp_path, name):
    data = json.dumps({"info": {"subdir": "noarch"}, "packages": {"tiny-1.0-0.tar.bz2": RECORD}}).encode()
    write(tmp_path, zstandard.compress(data) if name.endswith("zst") else data, name)
    with frozen_channels(tmp_path, [CHANNEL]) as (url,):
        (record,) = solve([url], ["tiny"], "linux-64", {})
        assert record["version"] == "1.0"
        assert [r["size"] for r in lookup([url], [("tiny", "1.0", "0"), ("tiny", "2.0", "0")], "linux-64")] == [7]
        unpacked = Path(urlsplit(url).path)
        assert unpacked.is_dir()
    assert not unpacked.exists()


@pytest.mark.parametrize("data", [b"", b"not zstd", zstandard.compress(b"[]"), zstandard.compress(b"{")])
def test_broken_metadata_is_named(tmp_path, data):
    write(tmp_path, data)
    with (
        pytest.raises(InputError, match=r"mine/noarch/repodata\.json\.zst: not repodata"),
        frozen_channels(tmp_path, [CHANNEL]),
    ):
        pass


def test_a_missing_channel_is_named(tmp_path):
    with (
        pytest.raises(InputError, match="mine: no such channel in the frozen metadata"),
        frozen_channels(tmp_path, [CHANNEL]),
    ):
        pass


def test_a_solver_that_crashes_is_an_error_with_the_specs(monkeypatch, tmp_path):
    """py-rattler can abort the process: the parent lives and says what was being solved."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -ABRT $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    with pytest.raises(SolveError, match=r"the solver ended with code -6: (.|\n)*specs: tiny"):
        solve([CHANNEL], ["tiny"], "linux-64", {})

"""The pip part of the committed locks, found by hash at the real index, for every platform."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.fetch.wanted import Policy
from cogvideo_sat_env.source.mirror import mirror
from cogvideo_sat_env.source.mirror.selection import choose, read_part

pytestmark = pytest.mark.e2e


def test_every_pip_file_of_the_locks_is_found_and_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [replace(read_part(project_root(), variant), conda=()) for variant in choose([], True, "auto")]
    pins = {pin.file_name: pin for part in parts for pin in part.pip}
    made = mirror.make_mirror(tmp_path, parts, mirrors=(), policy=Policy(), fast=False, progress=Silent())
    assert made.fetched == made.pip == len(pins) > 20
    assert {path.name for path in (tmp_path / "wheelhouse").iterdir()} == {*pins, "index.html"}
    monkeypatch.setattr(mirror, "index_urls", lambda: pytest.fail("asked"))
    again = mirror.make_mirror(tmp_path, parts, mirrors=(), policy=Policy(), fast=False, progress=Silent())
    assert again.fetched == 0

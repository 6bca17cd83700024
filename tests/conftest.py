"""Fixtures that several areas share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def frozen() -> Path:
    """The frozen genuine channel metadata; only developers and CI have it beside the project."""
    folder = Path(os.environ.get("SATENV_FROZEN", PROJECT.parent / "shared" / "conda-channels"))
    if not folder.is_dir():
        pytest.skip(f"no frozen channel metadata in {folder}")
    return folder


@pytest.fixture(scope="session")
def frozen_urls(frozen: Path):
    """The frozen channels unpacked, as file:// URLs: conda-forge, nvidia."""
    from cogvideo_sat_env.channel.frozen import frozen_channels
    from cogvideo_sat_env.lock.make import channel_url

    with frozen_channels(frozen, [channel_url("conda-forge"), channel_url("nvidia")]) as urls:
        yield urls


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's data files, to be broken."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("environment.yml", "conda-lock.yml"):
        shutil.copy(PROJECT / name, root)
    for name in ("environments", "locks"):
        shutil.copytree(PROJECT / name, root / name)
    return root

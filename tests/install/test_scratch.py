"""Scratch folders: what a killed run left goes at the next one, what a living one has stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.base.scratch import scratch_folder

SRC = Path(__file__).resolve().parents[2] / "src"
HOLD = f"""
import signal, sys; sys.path.insert(0, {str(SRC)!r})
from pathlib import Path
from cogvideo_sat_env.base.scratch import scratch_folder
with scratch_folder("satenv-build-", Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    print(folder, flush=True)
    signal.pause()
"""


@pytest.mark.fault("scratch-left", "environment", "the next run removes it; a living run's stays")
def test_a_killed_runs_folder_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    (tmp_path / "satenv-build-notes").write_text("a user's own file")
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        left = Path(child.stdout.readline().strip())
        with scratch_folder("satenv-build-", tmp_path) as mine:
            assert (left / "half").exists() and mine.is_dir()
        child.send_signal(signal.SIGKILL)
    assert left.exists()
    with scratch_folder("satenv-build-", tmp_path) as mine:
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["satenv-build-notes"]

"""What runs inside a job: which checkpoint it goes on from. The training itself is in test_slurm_training.py."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.cluster.slurm import write_job
from satcheckout import save_torch


def sat_job(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the job's helper as the script does: nothing but the standard library."""
    command = [sys.executable, "-I", "-S", str(write_job.JOB_FILE), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def checkpoint(run: Path, step: int | str, whole: bool = True, part: int = 0) -> Path:
    """Make a checkpoint as SAT writes it, or one whose saving was cut off."""
    file = run / str(step) / f"mp_rank_{part:02d}_model_states.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_torch(file)
    if not whole:
        file.write_bytes(file.read_bytes()[:-30])
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ours after 1,000 steps: 500 and 1,000 are whole, and so is 1,000's copy with averaged weights."""
    folder = tmp_path / "ckpts" / "boats-7-11-26-02-44"
    for step in ("500", "1000", "1000-ema"):
        checkpoint(folder, step)
    (folder / "latest").write_text("1000", encoding="utf-8")
    (tmp_path / "7.run").write_text(f"{folder}\n", encoding="utf-8")
    return folder


def begin(top: Path, *more: object, **variables: str) -> tuple[str, dict]:
    done = sat_job("settings", top / "7.yaml", top / "7.run", "boats-7", *more, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((top / "7.yaml").read_text(encoding="utf-8"))["args"]


def test_the_first_start_does_what_the_yamls_say_under_a_name_of_its_own(tmp_path: Path) -> None:
    words, args = begin(tmp_path, "")
    assert args == {"experiment_name": "boats-7"} and "from the beginning" in words
    assert sat_job("step", tmp_path / "7.run").stdout == "0\n"


def test_a_requeued_job_goes_on_from_its_newest_checkpoint(run: Path, tmp_path: Path) -> None:
    words, args = begin(tmp_path, "")
    assert args["load"] == str(run) and args["save"] == str(run.parent) and args["mode"] == "pretrain"
    assert words == f"from step 1000 of {run}\n"
    assert sat_job("step", tmp_path / "7.run").stdout == "1000\n"


@pytest.mark.fault("checkpoint-cut-off", "environment", "goes on from the newest whole checkpoint, and says so")
@pytest.mark.parametrize("saved", ["1500", "1500-ema", "1000-ema", "", None])
def test_a_save_that_was_cut_off_is_passed_over(run: Path, tmp_path: Path, saved: str | None) -> None:
    checkpoint(run, 1500, whole=False)
    (run / "latest").unlink()
    if saved is not None:
        (run / "latest").write_text(saved, encoding="utf-8")
    words, _ = begin(tmp_path, "")
    assert "from step 1000" in words and "`latest` said" in words
    assert (run / "latest").read_text(encoding="utf-8") == "1000"


def test_a_checkpoint_of_two_parts_is_whole_with_both(run: Path, tmp_path: Path) -> None:
    checkpoint(run, 500, part=1)
    words, _ = begin(tmp_path, "", SATENV_JOB_PARTS="2")
    assert "from step 500" in words


def test_a_job_that_saved_nothing_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "ckpts" / "boats-7"
    checkpoint(folder, 500, whole=False)
    (tmp_path / "7.run").write_text(f"{folder}\n", encoding="utf-8")
    words, args = begin(tmp_path, "")
    assert "from the beginning" in words and "load" not in args


def test_another_jobs_run_is_gone_on_from_until_this_one_has_its_own(run: Path, tmp_path: Path) -> None:
    (tmp_path / "7.run").unlink()
    _, args = begin(tmp_path, run)
    assert args["load"] == str(run)
    assert sat_job("step", tmp_path / "7.run").stdout == "1000\n"  # what is newer than that counts as progress
    own = tmp_path / "ckpts" / "boats-7-later"
    checkpoint(own, 1200)
    (tmp_path / "7.run").write_text(f"{own}\n", encoding="utf-8")
    _, args = begin(tmp_path, run)
    assert args["load"] == str(own)


def test_a_folder_without_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    done = sat_job("settings", tmp_path / "7.yaml", tmp_path / "7.run", "boats-7", tmp_path)
    assert done.returncode == 1 and "no whole checkpoint" in done.stderr and not (tmp_path / "7.yaml").exists()


@pytest.mark.fault("compile-killed", "environment", "removes the lock that torch would wait for without an end")
def test_the_lock_of_a_compilation_that_was_killed_is_removed_and_one_that_goes_on_is_left(tmp_path: Path) -> None:
    """torch waits for such a file without an end: the requeued job would."""
    remove = runpy.run_path(str(write_job.JOB_FILE))["remove_stale_locks"]
    for name in ("killed", "going-on"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    with (tmp_path / "going-on" / "lock").open():
        remove(tmp_path)
    assert [path.parent.name for path in tmp_path.glob("*/lock")] == ["going-on"]

"""Settings that are odd and fine: the quick level on an untouched environment has no false alarm, and stays quick."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import PROJECT

pytestmark = pytest.mark.e2e

# name: (variables that are set, variables that are unset, what the shell does before, checks that may warn)
SETTINGS: dict[str, tuple[dict[str, str], tuple[str, ...], str, tuple[str, ...]]] = {
    "as it is": ({}, (), "", ()),
    "the C locale": ({"LC_ALL": "C", "LANG": "C"}, (), "", ()),
    "a locale that is not installed": ({"LC_ALL": "xx_YY.UTF-8"}, (), "", ()),
    "a preload that is not there": (
        {"LD_PRELOAD": "/opt/site/lib64/libtrack_init.so"}, (), "", ("identity.pollution",),
    ),
    "a mask of 077": ({}, (), "umask 077", ()),
    "a long TMPDIR with spaces": ({"TMPDIR": "LONG"}, (), "", ()),
    "no HOME": ({}, ("HOME",), "", ()),
    "no USER": ({}, ("USER", "LOGNAME"), "", ()),
    "a HOME that can't be written": ({"HOME": "READONLY"}, (), "", ("storage.space",)),
    "no bytecode, UTF-8": ({"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}, (), "", ()),
    "no colour, one thread": ({"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, (), "", ()),
    "no GPU to be seen": ({"CUDA_VISIBLE_DEVICES": ""}, (), "", ()),
    "a deleted working directory": ({}, (), 'cd "$GONE" && rmdir "$GONE"', ()),
    "standard input closed": ({}, (), "exec <&-", ()),
    "a library path of the site's": ({"LD_LIBRARY_PATH": "/opt/site/lib:/usr/local/lib"}, (), "", ()),
    "a Python path with something else": ({"PYTHONPATH": "/opt/site/python"}, (), "", ("identity.pollution",)),
    "inside a job of Slurm": ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "RANK": "0", "WORLD_SIZE": "8"}, (), "", ()),
    "options of a shell": ({"SHELLOPTS": "nounset", "ENV": "/nothing", "BASH_ENV": "/nothing"}, (), "", ()),
}  # fmt: skip

# What is tried in one run: settings that don't hide each other, and nothing beside one for which a warning is right.
TOGETHER = (
    ("as it is",),
    ("the C locale", "a mask of 077", "a long TMPDIR with spaces", "no HOME", "standard input closed",
     "a library path of the site's", "inside a job of Slurm"),
    ("a locale that is not installed", "no USER", "no bytecode, UTF-8", "no colour, one thread", "no GPU to be seen",
     "a deleted working directory", "options of a shell"),
    ("a preload that is not there", "a Python path with something else"),
    ("a HOME that can't be written",),
)  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return folders for the words in SETTINGS; READONLY is one even for root."""
    long = tmp_path / "a place with spaces" / ("x" * 60)
    long.mkdir(parents=True)
    gone = Path(tempfile.mkdtemp())
    closed = tmp_path / "home"
    closed.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", closed], check=False, capture_output=True)
    if mounted.returncode:
        closed.chmod(0o555)
    yield {"LONG": str(long), "READONLY": str(closed), "GONE": str(gone)}
    if not mounted.returncode:
        subprocess.run(["umount", "-l", closed], check=True)
    if gone.exists():
        gone.rmdir()


def test_every_setting_is_tried_once() -> None:
    assert sorted(name for names in TOGETHER for name in names) == sorted(SETTINGS)


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_odd_but_fine_settings_are_no_alarm(good_prefix, places, names, tmp_path):
    settings = [SETTINGS[name] for name in names]
    variables = {key: value for given, *_ in settings for key, value in given.items()}
    unset = {key for _, unset, *_ in settings for key in unset}
    before = "\n".join(first for _, _, first, _ in settings if first)
    may_warn = {check for *_, checks in settings for check in checks}
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CONDA", "TORCH"))}
    env["SATENV_CACHE"] = env.get("SATENV_CACHE") or str(Path.home() / ".cache" / "cogvideo-sat-env")
    env = {key: value for key, value in env.items() if key not in unset} | {"GONE": places["GONE"]}
    env |= {key: places.get(value, value) for key, value in variables.items()}
    script = f'{before or ":"}\nexec "$0" doctor -p "$1" --level quick --json'
    done = subprocess.run(
        ["/bin/sh", "-c", script, str(PROJECT / "scripts" / "satenv"), str(good_prefix)], env=env, cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    alarms = {item["id"]: item["finding"] for item in report["results"] if item["status"] in ("failed", "warning")}
    # what this machine itself lacks: the site's nvcc is of another CUDA, there is no room
    alarms = {check: words for check, words in alarms.items() if check not in ("toolchain.nvcc", *may_warn)}
    assert alarms == {}
    not_run = {item["id"] for item in report["results"] if item["status"] == "not_run"}
    assert not_run <= {"hardware.gpu", "toolchain.nvcc"}, not_run


@pytest.mark.parametrize("name", ["a preload that is not there", "a Python path with something else"])
def test_what_may_be_warned_of_is_and_the_exit_code_stays_0(good_prefix, name):
    variables, *_ = SETTINGS[name]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "CONDA"))}
    done = subprocess.run(
        [str(PROJECT / "scripts" / "satenv"), "doctor", "-p", str(good_prefix), "--only", "identity.pollution"],
        env=env | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and f"unset {next(iter(variables))}" in done.stdout, done.stdout + done.stderr

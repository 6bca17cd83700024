"""The command that a remedy tells to type: as the user started the program, whatever way that was."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.base.command_name import satenv, spell_out

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with the programs `satenv` and `cogvideo-sat-env`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("satenv", "cogvideo-sat-env"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        ("./scripts/satenv", "./scripts/satenv"),
        ("scripts/satenv", "scripts/satenv"),
        ("/srv/my checkout/scripts/satenv", "'/srv/my checkout/scripts/satenv'"),
        ("satenv", "satenv"),
        ("BIN/satenv", "satenv"),
        ("/venv/bin/satenv", "/venv/bin/satenv"),
        ("BIN/cogvideo-sat-env", "./scripts/satenv"),
        ("python3 /mnt/sat.pyz satenv", "python3 /mnt/sat.pyz satenv"),
        ("-c", "./scripts/satenv"),
        ("/x/cogvideo_sat_env/__main__.py", "./scripts/satenv"),
    ],
)
def test_the_name_is_the_one_that_was_typed(called: str, shown: str, on_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [called.replace("BIN", str(on_path))])
    assert satenv("create") == f"{shown} create"


def test_sh_finds_a_script_of_the_working_directory_without_a_path(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["satenv"])
    monkeypatch.setenv("PATH", "/nonexistent")
    assert satenv("doctor") == "./satenv doctor"


@pytest.mark.parametrize("prefix", ["/envs/sat", "/my envs/it's", "/a;b", "/$HOME", "/-p", "/é"])
def test_a_shell_reads_the_values_as_they_are(prefix: str) -> None:
    assert shlex.split(satenv("create --repair -p", prefix))[1:] == ["create", "--repair", "-p", prefix]


def test_the_metapackages_program_names_itself_for_what_it_has(on_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(on_path / "cogvideo-sat-env")])
    assert satenv("doctor --only video") == "cogvideo-sat-env doctor --only video"
    assert spell_out("{satenv} doctor says; {satenv} update does") == (
        "cogvideo-sat-env doctor says; ./scripts/satenv update does"
    )


@pytest.mark.parametrize("called", ["scripts/satenv", "./scripts/satenv", str(PROJECT / "scripts" / "satenv")])
def test_the_launcher_hands_its_name_on(called: str) -> None:
    run = subprocess.run(
        [called, "doctor", "-p", "/nonexistent"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 6 and f"{called} create" in run.stderr
    usage = subprocess.run([called, "create", "--help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert f"Usage: {called} create" in usage.stdout and f"  {called} create --repair " in usage.stdout

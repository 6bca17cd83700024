"""The README's first command, for real: an environment from a package index, proven by the doctor."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from rattler import PrefixRecord

from cogvideo_sat_env.base.wheel_patch import read_patch
from conftest import PROJECT, satenv

pytestmark = pytest.mark.e2e
PATCHES = PROJECT / "recipe" / "patches"


def test_the_environment_is_created_and_the_doctor_passes(created):
    outcome = created.outcome
    assert outcome["status"] == "created"
    assert outcome["source"] == "wheels"
    assert outcome["exit_code"] == 0
    assert outcome["doctor"]["level"] == "quick"
    assert [r["id"] for r in outcome["doctor"]["results"] if r["status"] == "failed"] == []
    assert outcome["packages"] > 100 and outcome["bytes"] > 3e9


def test_what_no_wheel_provides_is_listed_and_recorded_not_faked(created):
    missing = {item["name"] for item in created.outcome["not_provided"]}
    assert {"cuda-nvcc", "cuda-version", "gxx_linux-64"} <= missing
    receipt = json.loads((created.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())
    assert {item["name"] for item in receipt["not_provided"]} == missing
    assert receipt["source"] == "wheels"
    names = {package["name"] for package in receipt["packages"]}
    assert not missing & names
    assert {"pytorch", "torchvision", "swissarmytransformer", "decord", "deepspeed", "ffmpeg", "python"} <= names


def test_the_recipes_patches_are_in_it(created):
    receipt = json.loads((created.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())
    folders = {folder.name: folder for folder in PATCHES.iterdir() if folder.name != "cogvideo"}  # users' checkouts
    assert receipt["patched"] == {name: sorted(p.name for p in folder.iterdir()) for name, folder in folders.items()}
    (site,) = created.prefix.glob("lib/python3.*/site-packages")
    for patch in (path for folder in folders.values() for path in folder.iterdir()):
        for name, hunks in read_patch(patch).items():
            (path,) = site.glob(name) if (site / name).exists() else site.glob(f"*.dist-info/{Path(name).name}")
            text = path.read_text()
            assert all(line[1:] in text for _, body in hunks for line in body if line[0] == "+"), f"{patch}: {name}"


def test_it_is_a_conda_prefix(created):
    records = [PrefixRecord.from_path(path) for path in (created.prefix / "conda-meta").glob("*.json")]
    by_name = {record.name.normalized: record for record in records}
    assert str(by_name["pytorch"].build).startswith("cuda128_py3")
    assert "python" in {dependency.split()[0] for dependency in by_name["kornia"].depends}
    assert (created.prefix / "conda-meta" / "history").exists()


def test_again_there_is_nothing_to_do(created):
    before = (created.prefix / "etc/cogvideo-sat-env/receipt.json").read_bytes()
    run = satenv("create", "--source", "wheels", "-p", str(created.prefix), "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["status"] == "up-to-date"
    assert (created.prefix / "etc/cogvideo-sat-env/receipt.json").read_bytes() == before


def test_a_second_environment_converts_nothing(created, tmp_path):
    run = satenv("create", "--source", "wheels", "-p", str(tmp_path / "second"), "--no-doctor")
    assert run.returncode == 0, run.stderr
    assert ": 0 converted, " in run.stderr


def test_the_doctors_full_level_passes(full_report):
    results = full_report["results"]
    bad = [(r["id"], r["finding"]) for r in results if r["status"] == "failed"]
    assert (full_report["exit_code"], bad) == (0, [])
    passed = {r["id"] for r in results if r["status"] == "passed"}
    assert {"training.zero2", "training.checkpoint", "data.webdataset", "video.decord", "lora.safetensors"} <= passed


SCRIPT = """
import os, sys
import sat, torch
assert sys.prefix == os.environ["CONDA_PREFIX"], sys.prefix
assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
assert os.path.isdir(os.environ["TORCH_EXTENSIONS_DIR"])
print("sat from", os.path.dirname(sat.__file__))
"""


def test_an_activated_shell_runs_the_environments_programs(created, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    activate = created.prefix / "bin" / "activate-cogvideo-sat"
    command = f". '{activate}' && python '{script}' && ffmpeg -version | head -n 1 && torchrun --help | head -n 1"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert any(line.startswith(f"sat from {created.prefix}") for line in lines)
    assert any(line.startswith("ffmpeg version") for line in lines)
    assert any(line.startswith("usage: torchrun") for line in lines)


def test_the_doctor_finds_the_active_environment(created, tmp_path):
    activate = created.prefix / "bin" / "activate-cogvideo-sat"
    satenv_script = Path(__file__).parents[2] / "scripts" / "satenv"
    command = f". '{activate}' && '{satenv_script}' doctor --only identity.distribution --json"
    run = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["prefix"] == str(created.prefix)

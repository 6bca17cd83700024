"""The real conda-lock, our front-end, frozen metadata and the site's index, through the command line.

That the committed locks come of the committed metadata again, byte for byte: tests/lock/test_freeze.py.
"""

from __future__ import annotations

import subprocess

import pytest

from conftest import satenv

pytestmark = pytest.mark.e2e
VARIANT = "linux-64-cpu"
LOCK = "locks/linux-64-cpu-conda-lock.yml"


def lock(project, frozen, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = satenv("lock", "--frozen", str(frozen), "--only", VARIANT, *arguments, SATENV_PROJECT=str(project))
    assert run.returncode == 0, run.stderr
    return run


@pytest.fixture
def channels(frozen, tmp_path):
    """The frozen channels alone: the pip part comes from the site's index."""
    folder = tmp_path / "channels"
    folder.mkdir()
    for name in ("conda-forge", "nvidia"):
        (folder / name).symlink_to(frozen / name)
    return folder


def test_from_the_sites_index_the_conda_packages_are_those_of_the_committed_lock(project, channels):
    before = (project / "locks/conda-linux-64-cpu.lock").read_text()
    (project / LOCK).unlink()  # nothing of the lock before may help
    lock(project, channels)
    assert (project / "locks/conda-linux-64-cpu.lock").read_text() == before


def test_an_update_changes_one_package_and_nothing_else(project, frozen):
    environment = project / "environment.yml"
    text = environment.read_text()
    environment.write_text(text.replace("numpy >=2 ", "numpy >=2,<2.4 "))
    lock(project, frozen)
    old = (project / "locks/conda-linux-64-cpu.lock").read_text().splitlines()
    environment.write_text(text)
    lock(project, frozen, "--update", "numpy")
    new = (project / "locks/conda-linux-64-cpu.lock").read_text().splitlines()
    changed = {line.split("#")[0].rpartition("/")[2].partition("-")[0] for line in set(old) ^ set(new) if "://" in line}
    assert changed == {"numpy"}


def test_an_update_of_an_unknown_name_is_refused(project, frozen):
    run = satenv("lock", "--frozen", str(frozen), "--update", "nunpy", SATENV_PROJECT=str(project))
    assert run.returncode == 3
    assert "--update nunpy: not in the lock" in run.stderr


def test_what_cannot_be_solved_is_named_and_nothing_is_written(project, frozen):
    environment = project / "environment.yml"
    environment.write_text(environment.read_text().replace("kornia >=0.7.3 ", "kornia >=99 "))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    run = satenv("lock", "--frozen", str(frozen), "--only", VARIANT, SATENV_PROJECT=str(project))
    assert run.returncode == 7
    assert "kornia >=99" in run.stderr and "Traceback" not in run.stderr
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_an_unreachable_index_is_named_without_its_address(project, channels):
    run = satenv(
        "lock",
        "--frozen",
        str(channels),
        "--only",
        VARIANT,
        SATENV_PROJECT=str(project),
        PIP_INDEX_URL="http://127.0.0.1:9/index",
    )
    assert run.returncode == 5
    assert "the package index refused what linux-64-cpu needs" in run.stderr
    assert "127.0.0.1" not in run.stderr

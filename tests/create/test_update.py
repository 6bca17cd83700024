"""`satenv update`, `satenv undo` and `satenv create --repair` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.paths import current_platform

from .test_create import Machine, channel, machine  # noqa: F401 - fixtures

pytestmark = pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64")


def lock(machine: Machine, channel: Path, count: int) -> None:  # noqa: F811
    found = packages.artefacts(channel / "conda-forge", f"{machine.server.url}/conda-forge")
    machine.write_lock(found[:count])


def names(machine: Machine) -> list[str]:  # noqa: F811
    return sorted(path.name for path in (machine.prefix / "conda-meta").glob("*.json"))


def kept(machine: Machine) -> list[str]:  # noqa: F811
    return [path.name for path in machine.prefix.parent.iterdir() if path.name != machine.prefix.name]


@pytest.mark.slow
def test_an_update_keeps_the_former_one_and_undo_swaps_them(machine, channel):  # noqa: F811
    assert machine.create().returncode == 0
    before = names(machine)
    lock(machine, channel, 3)
    run = machine.satenv("update", "--no-doctor")
    assert run.returncode == 0, run.stderr
    assert "is kept for ./scripts/satenv undo" in run.stderr and "are free" in run.stderr
    assert ": updated from channel, 3 packages" in run.stdout and "./scripts/satenv undo -p" in run.stdout
    assert len(names(machine)) == 3 and len(kept(machine)) == 1
    again = machine.satenv("update", "--no-doctor")
    assert "is up to date (3 packages" in again.stdout and len(kept(machine)) == 1
    assert "is kept for" not in again.stderr
    undone = machine.satenv("undo")
    assert undone.returncode == 0, undone.stderr
    assert "./scripts/satenv undo swaps them back" in undone.stdout and names(machine) == before
    assert json.loads(machine.satenv("undo", "--json").stdout)["status"] == "undone"
    assert len(names(machine)) == 3
    assert machine.satenv("undo", "--forget").returncode == 0
    assert kept(machine) == []
    nothing = machine.satenv("undo")
    assert nothing.returncode == 3 and "nothing is kept" in nothing.stderr


@pytest.mark.slow
def test_only_the_last_one_is_kept_and_no_keep_keeps_none(machine, channel):  # noqa: F811
    assert machine.create().returncode == 0
    for count in (3, 2):
        lock(machine, channel, count)
        assert machine.satenv("update", "--no-doctor", "--json").returncode == 0
    assert len(kept(machine)) == 1
    assert machine.satenv("undo").returncode == 0 and len(names(machine)) == 3
    lock(machine, channel, 1)
    assert machine.satenv("update", "--no-doctor", "--no-keep").returncode == 0
    assert kept(machine) == [] and len(names(machine)) == 1


def test_an_update_that_fails_changes_nothing(machine, channel):  # noqa: F811
    assert machine.create().returncode == 0
    before = names(machine)
    lock(machine, channel, 3)
    path = machine.project / "locks/linux-64-cpu-conda-lock.yml"
    digest = packages.artefacts(channel / "conda-forge", "x")[1].sha256
    path.write_text(path.read_text().replace(digest, "a" * 64))
    run = machine.satenv("update", "--no-doctor")
    assert run.returncode == 4 and "a" * 64 in run.stderr
    assert names(machine) == before and kept(machine) == []


def test_what_is_not_ours_is_not_updated(machine):  # noqa: F811
    run = machine.satenv("update", "-p", str(machine.home))
    assert run.returncode == 3 and "holds no environment of this program" in run.stderr


@pytest.mark.slow
def test_repair_says_what_it_put_right(machine):  # noqa: F811
    assert machine.create().returncode == 0
    run = machine.create("--repair")
    assert run.returncode == 0 and "is as it should be (4 packages" in run.stdout
    (machine.prefix / "share/data/a.txt").unlink()
    run = machine.create("--repair")
    assert run.returncode == 0, run.stderr
    assert ": repaired from channel" in run.stdout and "put right: share/data/a.txt (missing)" in run.stdout
    (machine.prefix / "share/data/a.txt").unlink()
    outcome = json.loads(machine.create("--repair", "--json").stdout)
    assert outcome["status"] == "repaired" and outcome["repaired"] == ["share/data/a.txt (missing)"]

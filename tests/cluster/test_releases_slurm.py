"""Releases under jobs of a real Slurm of two nodes: an update and a rollback while a job runs, and prune that refuses."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.admin import Site
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster import releases
from slurmcluster import two_nodes

pytestmark = pytest.mark.e2e

# of a user's: no release is named; on both nodes it says again and again what it runs on, until the file END is there
SCRIPT = """#!/bin/bash
#SBATCH -N 2 --ntasks-per-node=1 --output={folder}/%j.out
set -euo pipefail
. {root}/load.sh
srun bash -c 'until [ -e {folder}/END ]; do echo "$SLURM_NODEID $CONDA_PREFIX $(cat $CONDA_PREFIX/share/linked/dir/file)"; sleep 0.2; done'
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with two_nodes() as env:
        yield env


def wait(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_a_job_keeps_its_release_through_update_and_rollback_and_prune_refuses_it(
    apps: Site, cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", cluster["PATH"])  # the real squeue and scontrol
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    base = apps.deploy("data", "x264").name
    time.sleep(1.1)  # Slurm's times are whole seconds: the job begins when `old` alone was current
    old = apps.deploy("data").name
    time.sleep(1.1)
    script = tmp_path / "job.sh"
    script.write_text(SCRIPT.format(root=apps.path, folder=tmp_path))
    number = subprocess.run(["sbatch", "--parsable", script], env=cluster, capture_output=True, text=True, check=True,
                            cwd=tmp_path).stdout.strip()  # fmt: skip
    log = tmp_path / f"{number}.out"
    try:
        wait(lambda: log.exists() and {line.split()[0] for line in lines(log)} == {"0", "1"})
        assert (apps.root.leases / f"{old}@{number}").exists()
        (apps.root.leases / f"{old}@{number}").unlink()  # as where jobs may not write: the script alone tells
        apps.deploy()
        releases.rollback(apps.path, Silent())
        releases.activate(apps.path, base, Silent())
        new = next(name for name in apps.root.names() if name not in (base, old))
        releases.activate(apps.path, new, Silent())
        with pytest.raises(PrefixError, match=rf"is not deleted: it is in use by job {number} of root \(running\)"):
            releases.prune(apps.path, Silent(), keep=None, name=old)
        assert old in releases.prune(apps.path, Silent(), keep=0).facts["kept"]
        found = {entry["release"]: entry["used_by"] for entry in releases.list_releases(apps.path).releases}
        assert any(f"job {number} of root" in who for who in found[old])
        seen = len(lines(log))
        wait(lambda: len(lines(log)) > seen + 4)
        assert {line.split(" ", 1)[1] for line in lines(log)} == {f"{apps.root.prefix(old)} x"}
        pending = subprocess.run(
            ["sbatch", "--parsable", "--hold", "--wrap", f". {apps.root.prefix(old)}/bin/activate-cogvideo-sat"],
            env=cluster, capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout.strip()  # fmt: skip
    finally:
        (tmp_path / "END").touch()
    wait(lambda: number not in queued(cluster))
    with pytest.raises(PrefixError, match=rf"in use by job {pending} of root \(pending\)"):
        releases.prune(apps.path, Silent(), keep=None, name=old)
    subprocess.run(["scancel", pending], env=cluster, check=True)
    wait(lambda: pending not in queued(cluster))
    assert old in releases.prune(apps.path, Silent(), keep=0).facts["deleted"]
    assert apps.root.current_name() == new and not apps.root.prefix(old).exists()


def lines(log: Path) -> list[str]:
    """Return the whole lines of the nodes in a job's output."""
    text = log.read_text() if log.exists() else ""
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if os.sep in line and line[0] in "01"]


def queued(env: dict[str, str]) -> str:
    return subprocess.run(["squeue", "-h", "-o", "%A"], env=env, capture_output=True, text=True, check=True).stdout

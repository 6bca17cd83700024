"""The doctor on a real Slurm of two nodes, whose names lead nowhere, as on a cluster without DNS of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor.fleet import job_step
from slurmcluster import two_nodes

pytestmark = pytest.mark.e2e

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with two_nodes() as env:
        yield env


def doctor(env: dict[str, str], prefix: Path, *arguments: str, how: str = "salloc", **variables: str):
    """Run `doctor --nodes 2` in an allocation; return exit code, results by id, seconds, all that was printed."""
    command = [
        sys.executable, "-m", "cogvideo_sat_env.doctor", "-p", str(prefix), "--nodes", "2", "--ntasks", "2", "--json",
        *arguments,
    ]  # fmt: skip
    start = time.monotonic()
    ran = subprocess.run(
        [*(["salloc", "-N2", "-n2", "-Q"] if how == "salloc" else ["srun", "-N2", "-n2"]), *command],
        env={**env, "PYTHONPATH": str(SOURCE), **variables}, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    try:
        report = json.loads(ran.stdout[ran.stdout.index("{") :])
    except ValueError:
        report = {}
    found = {item["id"]: item for item in report.get("results", [])}
    return ran.returncode, found, time.monotonic() - start, ran.stdout + ran.stderr


@pytest.fixture
def data_only(prefix):
    """A prefix in which nothing trains, so that this takes seconds."""
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"data_only": true}')
    return prefix.root


@pytest.mark.parametrize("how", ["salloc", "srun"])
def test_ranks_find_each_other_by_slurms_addresses_where_names_lead_nowhere(cluster, data_only, how):
    """Started by the doctor inside an allocation, and as the step itself."""
    with pytest.raises(OSError):
        socket.getaddrinfo("n1", None)
    code, found, seconds, printed = doctor(cluster, data_only, "--only", "identity.activation", how=how)
    assert code == 0 and found["fleet.ranks"]["finding"] == "2 ranks on 2 hosts: n1, n2", printed
    assert found["fleet.names"]["status"] == "warning" and "n1, n2" in found["fleet.names"]["finding"], found
    assert "MASTER_ADDR" in found["fleet.names"]["remedy"]
    assert seconds < 60.0


def test_a_rank_that_cannot_resolve_rank_0_reaches_the_report_with_its_own_words_at_once(cluster, data_only):
    """Without them rank 0 waits for two minutes, and knows only that the rank never came."""
    code, found, seconds, printed = doctor(
        cluster, data_only, "--only", "identity.activation", MASTER_ADDR="first-node.invalid"
    )
    assert code == 1 and found["fleet.ranks"]["status"] == "failed", printed
    assert "rank 1 on n2: can't reach rank 0: first-node.invalid" in found["fleet.ranks"]["finding"], found
    assert "has no address" in found["fleet.ranks"]["finding"] and seconds < 60.0


def test_slurm_is_asked_for_a_nodes_address(cluster):
    assert job_step.addresses("n2", {**cluster}) == ("127.0.0.1",)
    assert job_step.addresses("n9", {**cluster, "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}) == ("127.0.0.1",)
    assert job_step.addresses("n9", {**cluster}) == ()

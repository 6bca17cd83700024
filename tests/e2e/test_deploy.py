"""A release of the real environment: deployed from wheels, loaded by load.sh and as a module, unchanged by use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from conftest import satenv

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("environment")]
LMOD = Path("/usr/share/lmod/lmod/init/bash")


def test_a_release_from_wheels_passes_the_doctor_is_current_and_stays_as_it_is(created, tmp_path) -> None:
    """After `created`, whose wheels are in the cache: links, and the doctor's quick level."""
    root = tmp_path / "apps"
    run = satenv("deploy", str(root), "--source", "wheels", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    done = json.loads(run.stdout)
    prefix, record = Path(done["prefix"]), done["record"]
    assert done["current"] and record["doctor"]["ok"] and record["doctor"]["counts"]["failed"] == 0
    assert record["source"] == "wheels" and record["packages"] > 100 and record["files"] > 20_000
    loads = [f"set -euo pipefail; . {root}/load.sh"]
    if LMOD.exists():
        loads.append(f". {LMOD}; module use {root}/modules; module load cogvideo-sat")
    for load in loads:
        python = "import sat, torch; print(sat.__file__); print(torch.__version__)"
        ran = subprocess.run(
            ["bash", "-c", f'{load}; python -c "{python}"'], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0 and str(prefix.resolve()) in ran.stdout, ran.stderr
    run = satenv("doctor", "-p", str(prefix), "--level", "full", "--only", "identity.files", "--json")
    assert [result["status"] for result in json.loads(run.stdout)["results"]] == ["passed"], run.stdout
    again = satenv("deploy", str(root), "--source", "wheels", "--json")
    assert json.loads(again.stdout)["status"] == "up-to-date", again.stderr

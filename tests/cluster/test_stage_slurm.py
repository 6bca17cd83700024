"""A real Slurm of two nodes, each with a disk of its own: the image goes to both by one sbcast."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import pytest

from cogvideo_sat_env.cluster.image_facts import facts_path, read_facts
from slurmcluster import two_nodes

from .test_stage import NODE, made, site  # noqa: F401

pytestmark = pytest.mark.e2e

BATCH = """#!/bin/bash
set -euo pipefail
export PATH="{shims}:$PATH"
{root}/stage --json 2> {out}/stage.err > {out}/stage.json
. "$({root}/stage 2> {out}/again.err)"
srun --overlap -N2 -n4 --ntasks-per-node=2 -o {out}/rank%t.txt sh -c \\
    'echo "$SLURMD_NODENAME $(command -v purepy) $(purepy) $(stat -f -c %T "$CONDA_PREFIX")"'
{root}/stage --release 2> {out}/release.err
srun --overlap -N2 -n2 --ntasks-per-node=1 -o {out}/left%t.txt sh -c 'ls -A {own}'
"""
# the image is damaged as soon as it was sent: a node that read the shared file would say so
SBCAST = """#!/bin/sh
echo "$@" >> {out}/sbcast.log
{real} "$@"
code=$?
if [ ! -e {out}/whole ]; then cp "$2" {out}/whole; : > "$2"; fi
exit $code
"""


@pytest.mark.parametrize("how", ["loop", "fuse"])
def test_sbcast_sends_it_once_and_both_nodes_mount_it_for_the_whole_job(site, tmp_path, how):  # noqa: F811
    out, shims = tmp_path / "out", tmp_path / "shims"
    for folder in (out, shims, NODE):
        folder.mkdir()
    facts = replace(read_facts(site.image), prefix=str(NODE / "sat" / "r1"))
    facts_path(site.image).write_text(facts.to_json())
    (shims / "sbcast").write_text(SBCAST.format(out=out, real=shutil.which("sbcast")))
    if how == "fuse":
        if shutil.which("squashfuse") is None:
            pytest.skip("no squashfuse")
        (shims / "mount").write_text("#!/bin/sh\necho no loop devices >&2\nexit 32\n")
    for shim in shims.iterdir():
        shim.chmod(0o755)
    script = tmp_path / "job.sh"
    script.write_text(BATCH.format(root=site.root, out=out, own=NODE, shims=shims))
    with two_nodes(NODE) as env:
        ran = subprocess.run(
            ["sbatch", "--wait", "-N2", "-n4", "-o", str(out / "job.txt"), str(script)], env=env, capture_output=True,
            text=True, check=False, timeout=200,
        )  # fmt: skip
        words = "".join(f"\n{path.name}: {path.read_text()}" for path in sorted(out.glob("*")) if path.name != "whole")
        assert ran.returncode == 0, ran.stderr + words
    NODE.rmdir()
    staged = json.loads((out / "stage.json").read_text())
    if staged["how"] not in (how, "loop"):
        pytest.skip(f"can't be mounted here: {words}")
    assert (staged["how"], staged["prefix"]) == (how, facts.prefix), words
    assert sorted(node["node"] for node in staged["nodes"]) == ["n1", "n2"]
    assert len((out / "sbcast.log").read_text().splitlines()) == 1, "nor by the second stage of the job"
    ranks = [(out / f"rank{number}.txt").read_text().split() for number in range(4)]
    assert {rank[0] for rank in ranks} == {"n1", "n2"}
    assert {tuple(rank[1:4]) for rank in ranks} == {(f"{facts.prefix}/bin/purepy", "purepy", "main")}
    assert {rank[4] for rank in ranks} == {"squashfs" if how == "loop" else "fuseblk"}, words
    assert "left as it is" not in (out / "release.err").read_text()
    assert [(out / f"left{number}.txt").read_text() for number in range(2)] == ["", ""], words

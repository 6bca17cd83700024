"""The commands of docs/cluster.md are typed by a test, or there is a reason why not."""

from __future__ import annotations

import ast
from pathlib import Path

from clusterpage import commands

TESTS = Path(__file__).parents[1]
WALKS = ("cluster/test_slurm_training.py", "e2e/test_bundle.py")
NOT_TYPED = {
    "./scripts/satenv deploy /apps/sat": "asks channels for the lock's packages; cluster/test_deploy.py has a channel",
    "git pull && ./scripts/satenv deploy /apps/sat": "the same; class Update of the walk has the next lock",
    "./scripts/satenv deploy /apps/sat --bundle sat.pyz": "the bundle's own satenv does the same, without a network",
    "./scripts/satenv deploy /apps/sat --lock mine.conda-lock.yml": "create/test_lock_option.py has such locks",
    "./scripts/satenv deploy /apps/sat --image": "a minute of packing; cluster/test_deploy.py has small packages",
    '. "$(/apps/sat/stage)"': "cluster/test_stage_slurm.py, whose image is of small packages",
    "/apps/sat/stage --release": "the same",
    "/apps/sat/stage --here >/dev/null || :": "cluster/test_stage.py",
    "/apps/sat/stage --here --release || :": "cluster/test_stage.py",
    "./scripts/satenv image oci --base rootfs.tar.gz --tag 2026-11": "cluster/test_oci.py",
    "skopeo copy oci:oci:2026-11 DESTINATION": "cluster/test_oci.py",
    "apptainer build cogvideo-sat.sif oci:oci:2026-11": "no Apptainer on the machines of these tests",
    "export SATENV_SITE=$PWD/satenv-site.yml": "the walk's environment has it",
    "squeue --me; tail -f /scratch/$USER/boats/logs/JOB.out": "never ends",
    "scancel JOB": "ends what is to be looked at",
    "sbatch --export=ALL,RESUME=FOLDER train.sbatch": "cluster/test_slurm_job.py: which checkpoint is gone on from",
    "srun --jobid=JOB --overlap -N 2 -n 2 ./scripts/satenv doctor -p RELEASE --level quick --nodes 2 --ntasks 2":
        "doctor/test_slurm.py, without minutes of checks; the walk's job has them",
}  # fmt: skip


def test_every_command_of_the_page_is_typed_or_has_a_reason_why_not() -> None:
    trees = [ast.parse((TESTS / name).read_text(encoding="utf-8")) for name in WALKS]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert len(commands()) > 30
    assert set(commands()) - texts == set(NOT_TYPED)

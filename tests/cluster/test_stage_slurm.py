"""Job scripts with `stage: auto` on a real Slurm of two nodes, each with a disk of its own: one sbcast, two mounts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.cluster.image_facts import facts_path, read_facts
from conftest import satenv
from satcheckout import make_checkout, write_yaml
from slurmcluster import two_nodes

from .test_stage import NODE, made, site  # noqa: F401

pytestmark = pytest.mark.e2e

# in the place of upstream's, for an environment of small packages; each rank asks for the environment once more
SAMPLE = """
import os, subprocess
prefix = os.environ["CONDA_PREFIX"]
kind = subprocess.check_output(["stat", "-f", "-c", "%T", prefix], text=True)
words = subprocess.check_output([prefix + "/bin/purepy"], text=True)
again = subprocess.check_output(["{root}/stage"], text=True)
print(os.environ["SLURMD_NODENAME"], prefix, kind.strip(), words.strip(), again.strip())
"""
# the image is damaged as soon as it was sent: a node that read the shared file would say so
SBCAST = """#!/bin/sh
echo "$@" >> {out}/sbcast.log
{real} "$@"
code=$?
: > "$2"
exit $code
"""


@pytest.mark.parametrize("how", ["loop", "fuse"])
def test_a_script_with_stage_auto_sends_the_image_once_and_both_nodes_run_from_their_mounts(site, tmp_path, how):  # noqa: F811
    """First `slurm shell`, whose step reads the image itself; then `slurm sample` on both nodes."""
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
    kind = "squashfs" if how == "loop" else "fuseblk"

    def script(command: str, *words: object) -> Path:
        done = satenv("slurm", command, *map(str, words), "--site", str(tmp_path / "site.yml"), "--gpus-per-node", "0",
                      "--output", str(out / command), "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Path(json.loads(done.stdout)["script"])

    (tmp_path / "site.yml").write_text(f"root: {site.root}\nstage: auto\n")
    sat = make_checkout(tmp_path / "CogVideo")
    (sat / "sample_video.py").write_text(SAMPLE.format(root=site.root))
    args = {"mode": "inference", "load": "ckpts", "input_type": "txt", "input_file": "prompts.txt"}
    base = write_yaml(sat / "configs" / "inference.yaml", {"args": args})
    shell = script("shell")
    sample = script("sample", "--sat", sat, "--base", base, "--nodes", "2", "--doctor", "none")
    text = sample.read_text()
    sample.write_text(text.replace("export SATENV_JOB_DEVICE=cpu", ""))  # which would ask for torch
    with two_nodes(NODE) as env:
        env["PATH"] = f"{shims}{os.pathsep}{env['PATH']}"

        def run(*command: object) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                list(map(str, command)), env=env, capture_output=True, text=True, timeout=200, check=False
            )

        shown = run("bash", shell, "sh", "-c", 'echo "$CONDA_PREFIX $(stat -f -c %T "$CONDA_PREFIX")"')
        if "can't be mounted" in shown.stderr:
            pytest.skip(f"can't be mounted here: {shown.stderr}")
        assert f"{facts.prefix} {kind}\n" in shown.stdout, shown.stdout + shown.stderr
        ran = run("sbatch", "--wait", "--parsable", sample)
        logs = sample.parent / "logs"
        words = "".join(f"\n{path}: {path.read_text()}" for path in sorted(logs.rglob("*")) if path.is_file())
        assert ran.returncode == 0, ran.stderr + words
        left = run("srun", "-N2", "-n2", "ls", "-A", NODE)
        assert (left.returncode, left.stdout) == (0, ""), left.stdout + left.stderr
    NODE.rmdir()
    ranks = sorted(path.read_text().splitlines()[-1] for path in logs.rglob("rank-*.log"))
    told = f"{facts.prefix} {kind} purepy main {facts.prefix}/bin/activate-cogvideo-sat"
    assert ranks == [f"n1 {told}", f"n2 {told}"], words
    assert len((out / "sbcast.log").read_text().splitlines()) == 1, "nor by a stage of a rank"
    assert "left as it is" not in words and "shared folder" not in words, words

"""docs/cluster.md on a real Slurm of two nodes: a release is deployed, loaded, trained from, updated under a job.

The commands are the page's own. Training is with gloo: a killed rank, signals, sampling, a shell.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from clusterpage import typed
from conftest import PROJECT, satenv
from slurmcluster import two_nodes
from tinyjob import make_run

pytestmark = pytest.mark.e2e

STEPS = 16
LMOD = Path("/usr/share/lmod/lmod/init/bash")
_LOSS = re.compile(r"iteration +(\d+)/ +\d+ .*?total loss ([\d.E+-]+)")
# of the checkout: a step takes a while, and none begins while there is the file HOLD
_SLOW = """def step(data, model, args, timers, **kwargs):
    import os, sys, time
    time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    while os.path.exists(os.environ.get("HOLD", "")):
        time.sleep(0.1)
    print("runs from", sys.prefix, flush=True)
"""


class Cluster:
    """The cluster, ROOT with a release, a user's checkout and site file, and jobs of it."""

    def __init__(self, env: dict[str, str], top: Path) -> None:
        self.env, self.top, self.root, self.jobs = env, top, top / "apps" / "sat", top / "scratch"
        # the page's examples, and what they are here; wheels on the Python that runs this: its own has no headers
        self.values: dict[str, object] = {
            " --python /usr/bin/python3.11": "", "--gpus-per-node 8": "--gpus-per-node 0", "/apps/sat": self.root,
            "./scripts/satenv": PROJECT / "scripts" / "satenv", "/scratch/$USER": self.jobs,
        }  # fmt: skip
        self.deployed = json.loads(
            self.type("./scripts/satenv deploy /apps/sat --source wheels --python /usr/bin/python3.11", " --json")
        )
        self.release = Path(self.deployed["prefix"])
        self.files = snapshot(self.release)
        self.sat, self.bases = make_run(
            self.release, top / "CogVideo", train_iters=STEPS, save_interval=2, num_workers=1
        )
        train = self.sat / "train_video.py"
        text = train.read_text(encoding="utf-8")
        train.write_text(text.replace("def step(data, model, args, timers, **kwargs):\n", _SLOW), encoding="utf-8")
        shutil.copy(self.bases[0], self.sat / "configs" / "mine.yaml")
        self.values |= {"2026-11-26-0123456789ab": self.release.name, "~/CogVideo": self.sat.parent}
        self.jobs.mkdir()
        self.values |= {"configs/": f"{self.sat}/configs/"}
        assert "lines are known" in self.type("./scripts/satenv slurm site")
        site = top / "satenv-site.yml"
        facts = yaml.safe_load(site.read_text(encoding="utf-8"))
        assert facts["partition"] == "test"
        site.write_text(
            yaml.safe_dump(facts | {"root": str(self.root), "node_tmp": str(top / "node")}), encoding="utf-8"
        )
        self.env["SATENV_SITE"] = str(site)

    def type(self, line: str, more: str = "", code: int = 0, **values: object) -> str:
        """Type a line of the page; return what it prints."""
        command = typed(line, self.values | values) + more
        done = subprocess.run(
            ["bash", "-c", command], env=self.env, cwd=self.top, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, kind: str, *words: str, bases: list[Path], code: int = 0, **variables: str) -> tuple[str, Path]:
        """Write and submit a job on the nodes' CPUs, with `code` 3 one that is refused; return its number and its log."""
        output = self.jobs / f"{kind}-{len(list(self.jobs.iterdir()))}"
        named = [word for base in bases for word in ("--base", str(base))]
        done = satenv(
            "slurm", kind, "--sat", str(self.sat.parent), *named, "--gpus-per-node", "0", "--doctor", "none",
            "--output", str(output), "--submit", "--json", *words, **self.env, **variables,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        number = (
            json.loads(done.stdout).get("job") or self.ask("sbatch", "--parsable", f"{output}/{kind}.sbatch").strip()
        )
        return number, output / "logs" / f"{number}.out"

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def wait(self, number: str, log: Path, seen: Callable[[], bool], seconds: float = 400.0) -> None:
        """Wait until `seen`; fail with the logs when the job has ended without, or after `seconds`."""
        end = time.monotonic() + seconds
        while not seen():
            state = re.search(r"JobState=(\w+)", self.ask("scontrol", "show", "job", number))
            over = state is None or state[1] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
            if (over and not seen()) or time.monotonic() > end:
                self.ask("scancel", number)
                pytest.fail(f"{state and state[0]}\n{everything(log)}")
            time.sleep(0.3)

    def finished(self, number: str, log: Path) -> str:
        """Wait for the end of a job that ends well; return its log."""
        self.wait(number, log, lambda: "JobState=COMPLETED" in self.ask("scontrol", "show", "job", number))
        return log.read_text(encoding="utf-8")


def everything(log: Path) -> str:
    """All logs of a job, their last words."""
    files = [log, *sorted(log.with_suffix("").rglob("*.log"))]
    return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-3000:]}" for file in files if file.exists())


def losses(log: Path, start: int = 0) -> dict[int, str]:
    """What a start of a job printed: step -> loss, to its last figure."""
    file = log.with_suffix("") / str(start) / "rank-0.log"
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return {int(step): loss for step, loss in _LOSS.findall(text)}


def snapshot(release: Path) -> dict[str, tuple[int, int]]:
    """What a release has, with size and time: a file that is written anew shows, a link to it doesn't."""
    found = ((path, path.lstat()) for path in release.rglob("*") if not path.is_dir())
    return {str(path): (entry.st_size, entry.st_mtime_ns) for path, entry in found}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with two_nodes() as env:
        yield Cluster(env, tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def first(cluster: Cluster) -> tuple[str, Path]:
    """The page's job, submitted: it has begun when others come."""
    shown = cluster.type(
        "./scripts/satenv slurm train --sat ~/CogVideo --base configs/mine.yaml --base configs/sft.yaml"
        " --nodes 2 --gpus-per-node 8 --output /scratch/$USER/boats --submit"
    )
    number = re.search(r"job (\d+) is submitted", shown)[1]
    return number, cluster.jobs / "boats" / "logs" / f"{number}.out"


@pytest.fixture(scope="module")
def straight(cluster: Cluster, first: tuple[str, Path]) -> dict[int, str]:
    """The losses of a job that nothing interrupts, after the doctor's quick level has passed on both nodes."""
    number, log = first
    text = cluster.finished(number, log)
    assert "level quick" in text and " 0 failed" in text and "2 ranks on 2 hosts: n1, n2" in text, text
    assert (
        "2 ranks trained" in text and "modules import in one process" in text and "decoded 120 of 120 frames" in text
    ), text
    assert f"trained to the end; the newest checkpoint is of step {STEPS}" in text, text
    ranks = [(log.with_suffix("") / "0" / f"rank-{rank}.log").read_text(encoding="utf-8") for rank in (0, 1)]
    assert "rank 0 of 2 on n1" in ranks[0] and "rank 1 of 2 on n2" in ranks[1] and "gloo over lo" in ranks[1]
    found = losses(log)
    assert sorted(found) == list(range(1, STEPS + 1)), everything(log)
    cluster.type("./scripts/satenv doctor --explain /scratch/$USER/boats/logs/JOB/START/rank-0.log", code=1,
                 JOB=number, START=0)  # fmt: skip
    return found


@pytest.fixture(scope="module")
def broken(cluster: Cluster) -> tuple[str, Path]:
    """A job that can only fail."""
    yaml_file = cluster.top / "broken.yaml"
    yaml_file.write_text(
        yaml.safe_dump({"model": {"network_config": {"params": {"ofs_embed_dim": 8}}}}), encoding="utf-8"
    )
    return cluster.submit("train", bases=[*cluster.bases, yaml_file], code=3)


@pytest.fixture(scope="module")
def sampling(cluster: Cluster, first: tuple[str, Path], straight: dict[int, str]) -> tuple[str, Path]:
    """A job that samples from what was trained."""
    run = first[1].with_suffix(".run").read_text(encoding="utf-8").strip()
    args = {"mode": "inference", "load": run, "input_type": "txt", "input_file": "configs/test.txt",
            "sampling_num_frames": 4, "sampling_image_size": [64, 80], "force_inference": True}  # fmt: skip
    (cluster.sat / "configs" / "inference.yaml").write_text(yaml.safe_dump({"args": args}), encoding="utf-8")
    shown = cluster.type(
        "./scripts/satenv slurm sample --sat ~/CogVideo --base configs/mine.yaml --base configs/inference.yaml --submit",
        f" --gpus-per-node 0 --doctor none --output {cluster.jobs}/films",
    )
    number = re.search(r"job (\d+) is submitted", shown)[1]
    return number, cluster.jobs / "films" / "logs" / f"{number}.out"


def test_a_release_from_wheels_has_passed_the_doctor_is_current_and_is_loaded(cluster: Cluster) -> None:
    record = cluster.deployed["record"]
    assert cluster.deployed["current"] and record["doctor"]["ok"] and record["doctor"]["counts"]["failed"] == 0
    assert record["source"] == "wheels" and record["packages"] > 100 and record["files"] > 20_000
    assert f"*  {cluster.release.name}" in cluster.type("./scripts/satenv releases /apps/sat")
    shown = cluster.type(". /apps/sat/load.sh", '; python -c "import sat, torch; print(sat.__file__)"')
    assert str(cluster.release) in shown
    if LMOD.exists():
        lines = [typed(line, cluster.values) for line in (
            "module use /apps/sat/modules && module load cogvideo-sat", "module load cogvideo-sat/2026-11-26-0123456789ab"
        )]  # fmt: skip
        for line in (lines[0], f"module use {cluster.root}/modules; {lines[1]}"):
            shown = subprocess.run(["bash", "-c", f". {LMOD}; {line}; command -v python"], capture_output=True, text=True,
                                   check=False)  # fmt: skip
            assert shown.stdout == f"{cluster.release}/bin/python\n", shown.stderr


@pytest.mark.fault("rank-killed", "environment", "requeued, it goes on with the same losses")
def test_a_killed_step_and_a_signal_end_in_the_losses_of_a_job_that_nothing_interrupts(
    cluster: Cluster, first: tuple[str, Path], request: pytest.FixtureRequest
) -> None:
    """First a rank is killed: the last checkpoint is gone back to. Then the signal before the time limit, and that of a
    preemption, which the ranks and their loaders get, and the script doesn't: nothing is computed again.

    Meanwhile a new release becomes current, and the old one again: the job runs from its own to the end. (All other jobs
    of this file use the time in which this one waits to be started again.)
    """
    hold = cluster.top / "hold"
    number, log = cluster.submit("train", "--nodes", "2", bases=cluster.bases, STEP_SECONDS="1", HOLD=str(hold))
    update = Update(cluster)
    cluster.wait(number, log, lambda: 5 in losses(log))
    assert not cluster.ask("scancel", "--signal=KILL", f"{number}.0").strip()
    hold.touch()
    new = update.finished()
    shown = cluster.type("./scripts/satenv releases /apps/sat")
    used = re.search(rf"{cluster.release.name} is used by .*job {number} of root", shown)
    assert used and f"*  {new}" in shown, shown
    straight = request.getfixturevalue("straight")
    for other in ("sampling", "broken"):
        request.getfixturevalue(other)
    hold.unlink()
    cluster.wait(number, log, lambda: bool(losses(log, 1)))  # of step 5, or of 7 where 6 was saved before the kill
    assert not cluster.type("scancel --batch --signal=USR1 JOB", JOB=number).strip()
    assert f"-> releases/{cluster.release.name} (before: {new})" in cluster.type(
        "./scripts/satenv releases /apps/sat rollback"
    )
    cluster.wait(number, log, lambda: bool(losses(log, 2)))
    assert not cluster.ask("scancel", "--signal=TERM", f"{number}.0").strip()
    assert f"-> releases/{new} " in cluster.type("./scripts/satenv releases /apps/sat rollback")
    text = cluster.finished(number, log)

    # a machine that is slow to ask may signal in the last step: then nothing is left for the last start
    begun, *later = (found for start in range(4) if (found := losses(log, start)))
    resumed = max(step for step in begun if step % 2 == 0 and step < min(later[0]))
    begins = [resumed + 1, *(max(part) + 1 for part in later[:-1])]
    assert [min(part) for part in later] == begins and max(later[-1]) == STEPS, (begun, later)
    assert {step: loss for part in (begun, *later) for step, loss in part.items()} == straight
    assert all(later[0][step] == begun[step] for step in set(begun) & set(later[0]))
    assert text.count("requeued: it goes on from step") == 3 and "SIGUSR1" in text
    assert f"from step {max(later[1])} of" in text and "trained to the end" in text
    folder = Path(log.with_suffix(".run").read_text(encoding="utf-8").strip())
    assert folder.name.startswith(f"tiny-{number}-") and (folder / "latest").read_text(encoding="utf-8") == str(STEPS)
    places = set(
        re.findall(r"runs from (\S+)", "".join(file.read_text() for file in log.with_suffix("").rglob("*.log")))
    )
    assert places == {str(cluster.release)}


class Update:
    """The next release, from a lock whose bytes differ, deployed while jobs run."""

    def __init__(self, cluster: Cluster) -> None:
        project = cluster.top / "project"
        project.mkdir()
        for name in ("environment.yml", "conda-lock.yml"):
            shutil.copy(PROJECT / name, project)
        for name in ("environments", "locks", "recipe"):
            shutil.copytree(PROJECT / name, project / name)
        for lock in (project / "locks").glob("wheels-linux-64-*.txt"):
            lock.write_text(f"{lock.read_text(encoding='utf-8')}# the next one\n", encoding="utf-8")
        self.child = subprocess.Popen(
            [PROJECT / "scripts" / "satenv", "deploy", cluster.root, "--source", "wheels", "--json"], text=True,
            env=cluster.env | {"SATENV_PROJECT": str(project)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finished(self) -> str:
        """Wait for its end; return the release's name."""
        shown, said = self.child.communicate(timeout=400)
        assert self.child.returncode == 0, shown + said
        done = json.loads(shown)
        assert done["current"] and done["record"]["doctor"]["ok"]
        return done["release"]


def test_a_job_that_can_only_fail_again_is_not_requeued_and_says_what_to_do(
    cluster: Cluster, broken: tuple[str, Path]
) -> None:
    number, log = broken
    cluster.wait(number, log, lambda: "JobState=FAILED" in cluster.ask("scontrol", "show", "job", number))
    text = log.read_text(encoding="utf-8")
    assert "KeyError: 'ofs'" in text and "not requeued" in text and "doctor --explain" in text, text


def test_samples_are_shared_out_and_a_shell_runs_a_command_on_a_node(
    cluster: Cluster, sampling: tuple[str, Path]
) -> None:
    """The shell's command reads what activation sets; its script asks for an allocation of its own."""
    assert "sampled" in cluster.finished(*sampling)
    assert list((cluster.sat / "samples").rglob("*.mp4"))
    found = cluster.type("./scripts/satenv slurm shell", " --gpus-per-node 0 --json")
    script = json.loads(found)["script"]
    shown = cluster.ask("bash", script, "sh", "-c", 'echo "$SLURMD_NODENAME $CONDA_PREFIX $TRITON_CACHE_DIR"')
    current = re.escape(str((cluster.root / "current").resolve()))
    assert re.search(rf"^n[12] {current} \S+/triton-", shown, re.MULTILINE), shown


def test_releases_are_pinned_kept_activated_and_stay_as_they_were_made(cluster: Cluster) -> None:
    """After all jobs. The same lock again makes nothing new."""
    cluster.type("./scripts/satenv releases /apps/sat pin 2026-11-26-0123456789ab")
    assert "nothing to delete" in cluster.type("./scripts/satenv releases /apps/sat prune --keep 3 --dry-run")
    cluster.type("./scripts/satenv releases /apps/sat prune --keep 3")
    shown = cluster.type("./scripts/satenv releases /apps/sat activate 2026-11-26-0123456789ab")
    assert f"-> releases/{cluster.release.name}" in shown
    again = satenv("deploy", str(cluster.root), "--source", "wheels", "--json", **cluster.env)
    assert json.loads(again.stdout)["status"] == "up-to-date", again.stderr
    assert snapshot(cluster.release) == cluster.files

"""A generated script on a real Slurm of two nodes: training with gloo, a killed step, a signal, sampling, a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from conftest import satenv
from slurmcluster import two_nodes
from tinyjob import make_run

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("environment")]

STEPS = 20
_LOSS = re.compile(r"iteration +(\d+)/ +\d+ .*?total loss ([\d.E+-]+)")


@pytest.fixture(scope="module")
def prefix(request: pytest.FixtureRequest) -> Path:
    """The environment: SATENV_E2E_PREFIX, else the one that the wheels source creates."""
    named = os.environ.get("SATENV_E2E_PREFIX")
    return Path(named).absolute() if named else Path(request.getfixturevalue("wheels_prefix"))


class Cluster:
    """The cluster, a checkout whose steps take STEP_SECONDS, and jobs of it."""

    def __init__(self, env: dict[str, str], prefix: Path, top: Path) -> None:
        self.env, self.prefix, self.top = env, prefix, top
        self.sat, self.bases = make_run(prefix, top / "CogVideo", train_iters=STEPS, save_interval=2, num_workers=1)
        train = self.sat / "train_video.py"
        text = train.read_text(encoding="utf-8").replace(
            "def step(data, model, args, timers, **kwargs):\n",
            "def step(data, model, args, timers, **kwargs):\n"
            "    __import__('time').sleep(float(__import__('os').environ.get('STEP_SECONDS', '0')))\n",
        )
        train.write_text(text, encoding="utf-8")
        self.site = top / "site.yml"
        done = satenv("slurm", "site", "--output", str(self.site), **env)
        assert done.returncode == 0 and "lines are known" in done.stdout, done.stderr

    def submit(self, kind: str, *words: str, bases: list[Path] | None = None, **variables: str) -> tuple[str, Path]:
        """Write and submit a job on the nodes' CPUs; return its number and its log."""
        output = self.top / f"job-{kind}-{len(list(self.top.iterdir()))}"
        named = [word for base in bases or self.bases for word in ("--base", str(base))]
        done = satenv(
            "slurm", kind, "-p", str(self.prefix), "--sat", str(self.sat.parent), *named, "--gpus-per-node", "0",
            "--output", str(output), "--json", *words, **self.env, SATENV_SITE=str(self.site), **variables,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        number = found["job"]
        if number is None:  # written only: one check of the doctor in the place of a level's
            script = Path(found["script"])
            text = script.read_text(encoding="utf-8")
            script.write_text(text.replace("(--level quick)", "(--only identity.floors)"), encoding="utf-8")
            number = self.ask("sbatch", "--parsable", str(script)).strip()
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


@pytest.fixture(scope="module")
def cluster(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with two_nodes() as env:
        yield Cluster(env, prefix, tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def straight(cluster: Cluster) -> dict[int, str]:
    """The losses of a job that nothing interrupts, after the doctor has let both nodes train together."""
    assert yaml.safe_load(cluster.site.read_text(encoding="utf-8"))["partition"] == "test"
    number, log = cluster.submit("train", "--nodes", "2")
    text = cluster.finished(number, log)
    assert "2 ranks trained" in text and f"trained to the end; the newest checkpoint is of step {STEPS}" in text, text
    ranks = [(log.with_suffix("") / "0" / f"rank-{rank}.log").read_text(encoding="utf-8") for rank in (0, 1)]
    assert "rank 0 of 2 on n1" in ranks[0] and "rank 1 of 2 on n2" in ranks[1] and "gloo over lo" in ranks[1]
    found = losses(log)
    assert sorted(found) == list(range(1, STEPS + 1)), everything(log)
    return found


@pytest.mark.fault("rank-killed", "environment", "requeued, it goes on with the same losses")
def test_a_killed_step_and_a_signal_end_in_the_losses_of_a_job_that_nothing_interrupts(
    cluster: Cluster, straight: dict[int, str]
) -> None:
    """First a rank is killed: the last checkpoint is gone back to. Then the signal before the time limit, and that of a
    preemption, which the ranks and their loaders get, and the script doesn't: nothing is computed again.
    """
    number, log = cluster.submit("train", "--nodes", "2", "--doctor", "none", "--submit", STEP_SECONDS="1.5")
    cluster.wait(number, log, lambda: 5 in losses(log))
    assert not cluster.ask("scancel", "--signal=KILL", f"{number}.0").strip()
    cluster.wait(number, log, lambda: 6 in losses(log, 1))
    assert not cluster.ask("scancel", "--batch", "--signal=USR1", number).strip()
    cluster.wait(number, log, lambda: bool(losses(log, 2)))
    assert not cluster.ask("scancel", "--signal=TERM", f"{number}.0").strip()
    text = cluster.finished(number, log)

    # a machine that is slow to ask may signal in the last step: then nothing is left for the last start
    first, *later = (found for start in range(4) if (found := losses(log, start)))
    resumed = max(step for step in first if step % 2 == 0 and step < min(later[0]))
    begins = [resumed + 1, *(max(part) + 1 for part in later[:-1])]
    assert [min(part) for part in later] == begins and max(later[-1]) == STEPS, (first, later)
    assert {step: loss for part in (first, *later) for step, loss in part.items()} == straight
    assert all(later[0][step] == first[step] for step in set(first) & set(later[0]))
    assert text.count("requeued: it goes on from step") == 3 and "SIGUSR1" in text
    assert f"from step {max(later[1])} of" in text and "trained to the end" in text
    folder = Path(log.with_suffix(".run").read_text(encoding="utf-8").strip())
    assert folder.name.startswith(f"tiny-{number}-") and (folder / "latest").read_text(encoding="utf-8") == str(STEPS)


def test_a_job_that_can_only_fail_again_is_not_requeued_and_says_what_to_do(cluster: Cluster) -> None:
    broken = cluster.top / "broken.yaml"
    broken.write_text(yaml.safe_dump({"model": {"network_config": {"params": {"ofs_embed_dim": 8}}}}), encoding="utf-8")
    number, log = cluster.submit("train", "--doctor", "none", bases=[*cluster.bases, broken])
    cluster.wait(number, log, lambda: "JobState=FAILED" in cluster.ask("scontrol", "show", "job", number))
    text = log.read_text(encoding="utf-8")
    assert "KeyError: 'ofs'" in text and "not requeued" in text and "doctor --explain" in text, text


def test_samples_are_shared_out_and_a_shell_runs_a_command_on_a_node(
    cluster: Cluster, straight: dict[int, str]
) -> None:
    """The shell's command reads what activation sets; its script asks for an allocation of its own."""
    (run,) = [path for path in (cluster.sat / "ckpts").iterdir() if (path / str(STEPS)).is_dir()][:1]
    inference = cluster.top / "inference.yaml"
    args = {"mode": "inference", "load": str(run), "input_type": "txt", "input_file": "configs/test.txt",
            "sampling_num_frames": 4, "sampling_image_size": [64, 80], "force_inference": True}  # fmt: skip
    inference.write_text(yaml.safe_dump({"args": args}), encoding="utf-8")
    number, log = cluster.submit("sample", "--doctor", "none", "--submit", bases=[cluster.bases[0], inference])
    assert "sampled" in cluster.finished(number, log)
    assert list((cluster.sat / "samples").rglob("*.mp4"))

    done = satenv("slurm", "shell", "-p", str(cluster.prefix), "--gpus-per-node", "0", "--json",
                  "--output", str(cluster.top / "shell"), **cluster.env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    script = json.loads(done.stdout)["script"]
    shown = cluster.ask("bash", script, "sh", "-c", 'echo "$SLURMD_NODENAME $CONDA_PREFIX $TRITON_CACHE_DIR"')
    assert re.search(rf"^n[12] {re.escape(str(cluster.prefix))} \S+/triton-", shown, re.MULTILINE), shown

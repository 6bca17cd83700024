"""Making a job: checkout, YAMLs and site are looked at, the job's folder is written, sbatch is asked."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cogvideo_sat_env.base.command_name import METAPACKAGE, satenv
from cogvideo_sat_env.base.errors import InputError, MissingToolError, PrefixError, SatenvError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.cluster.slurm import script
from cogvideo_sat_env.cluster.slurm import site as sites
from cogvideo_sat_env.cluster.slurm.script import SAMPLE, SHELL, TRAIN, JobScript
from cogvideo_sat_env.doctor.children import run_child
from cogvideo_sat_env.doctor.run_checks import PROBES
from cogvideo_sat_env.doctor.sat import checkout
from cogvideo_sat_env.doctor.sat.examine import SatOptions, open_run, static_findings
from cogvideo_sat_env.doctor.sat.finding import FAILED, Finding
from cogvideo_sat_env.doctor.sat.rules import Run
from cogvideo_sat_env.doctor.sat.run_entry import cpu_settings

JOB_FILE = Path(__file__).resolve().parent / "job" / "sat_job.py"
_SBATCH = 60.0  # seconds for an answer


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    output     the job's folder; None: sat-KIND in the site's scratch, else here
    doctor     its level, "" for none
    overwrite  replace a script that differs
    """

    kind: str
    prefix: Path
    site: sites.Site
    sat: Path | None
    bases: Sequence[Path] = ()
    nodes: int = 1
    gpus: int = 1
    output: Path | None = None
    seed: int = 42
    resume: Path | None = None
    more: Sequence[str] = ()
    doctor: str = "quick"
    overwrite: bool = False


@dataclass(frozen=True)
class WrittenJob:
    """A job's folder, ready to be submitted. `findings`: what `sat check` says of the run."""

    job: JobScript
    files: tuple[Path, ...]
    findings: tuple[Finding, ...] = ()
    number: str | None = None  # of the submitted job

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "script": str(self.job.script), "files": [str(path) for path in self.files],
            "findings": [item.to_json() for item in self.findings], "job": self.number,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        lines = [f"{'FAILS ' if item.status == FAILED else 'warning'}  {item}" for item in self.findings]
        lines.append(f"{self.job.script}: written")
        if self.job.kind == SHELL:
            lines.append(f"  bash {self.job.script}")
        elif self.number is None:
            lines.append(f"  sbatch {self.job.script}")
        else:
            lines.append(f"job {self.number} is submitted; its log: {self.job.output / 'logs' / self.number}.out")
        return "\n".join(lines) + "\n"


def write(asked: Asked) -> WrittenJob:
    """Write the job's folder. Raises InputError for what can't be run as asked, PrefixError without an environment."""
    if asked.nodes < 1 or asked.gpus < 0:
        raise InputError(
            f"--nodes {asked.nodes} --gpus-per-node {asked.gpus}; expected 1 node or more, 0 GPUs (the CPU) or more",
            satenv("slurm train --nodes 2 --gpus-per-node 8"),
        )
    site = asked.site
    if asked.kind == TRAIN and site.time and sites.seconds(site.time) <= site.signal_seconds:
        raise InputError(
            f"{site.file}: time: {site.time} is not longer than signal_seconds: {site.signal_seconds}; training would"
            " be told to end at its start",
            "a longer time, or fewer signal_seconds",
        )
    folder, run, findings = _run(asked)
    get = run.config.get if run is not None else lambda name, default=None: default
    prefix, parts = _prefix(asked.prefix, site.stage), get("args.model_parallel_size", 1)
    job = JobScript(
        kind=asked.kind, site=site, prefix=prefix, sat=folder, output=_output(asked),
        nodes=asked.nodes, gpus=asked.gpus, bases=[*run.config.files] if run is not None else (),
        name=str(get("args.experiment_name", "MyModel")), parts=parts if isinstance(parts, int) else 1,
        resume=_resume(asked.resume), seed=asked.seed, more=tuple(asked.more),
        doctor=asked.doctor, program=_program(prefix, asked.doctor),
    )  # fmt: skip
    files: dict[Path, str] = {}
    if job.kind != SHELL:
        files[job.output / "sat_job.py"] = JOB_FILE.read_text(encoding="utf-8")
        if not job.gpus:
            cpu = job.output / "cpu.yaml"
            files[cpu] = yaml.safe_dump(cpu_settings(job.kind == TRAIN), sort_keys=False)
            files[job.output / "_sat_driver.py"] = (PROBES / "_sat_driver.py").read_text(encoding="utf-8")
            job = JobScript(**{**vars(job), "bases": (*job.bases, cpu)})
    files[job.script] = script.render(job)
    _write(job, files, asked.overwrite)
    return WrittenJob(job, tuple(files), tuple(findings))


def _run(asked: Asked) -> tuple[Path, Run | None, list[Finding]]:
    """Return the folder to start in, the run, and what is known to fail in it."""
    if asked.kind == SHELL:
        return (checkout.find(asked.sat).folder if asked.sat is not None else Path.cwd()), None, []
    if asked.sat is None or not asked.bases:
        raise InputError(
            "no --base among the options; upstream reads a run's YAMLs from there",
            f"--base configs/mine.yaml --base configs/{'sft' if asked.kind == TRAIN else 'inference'}.yaml",
        )
    found, run = open_run(SatOptions(asked.sat, asked.bases, asked.more))
    assert run is not None
    get = run.config.get
    if run.training != (asked.kind == TRAIN):
        other = SAMPLE if asked.kind == TRAIN else TRAIN
        raise InputError(
            f"{run.config.place('args.mode').file}: mode: {get('args.mode')}; expected the YAMLs of a run that"
            f" {'trains' if asked.kind == TRAIN else 'samples (mode: inference)'}",
            satenv(f"slurm {other}"),
        )
    if asked.kind == TRAIN and not isinstance(get("args.save"), str):
        raise InputError(
            f"{run.config.files[-1]}: args has no `save`; without checkpoints a job can't go on after its time limit",
            "save: a folder on a shared disk",
        )
    if asked.kind == SAMPLE and get("args.input_type", "cli") == "cli":
        raise InputError(
            f"{run.config.files[-1]}: input_type: cli reads prompts from a keyboard; a job has none",
            "input_type: txt, and input_file: a file with a prompt a line",
        )
    packages = sorted(asked.prefix.glob("lib/python3.*/site-packages/sat"))
    by_subject = static_findings(found, run, packages[0] if packages else None)
    return found.folder, run, [item for topic, items in by_subject.items() if topic != "scripts" for item in items]


def _prefix(prefix: Path, stage: str) -> Path:
    """Return the prefix that the script names: of ROOT/current the release, so that a job keeps it to its end.

    With `stage` a release may be an image alone.
    """
    named = Path(os.path.realpath(prefix)) if prefix.is_symlink() else prefix
    if stage:
        starter = named.parents[1] / "stage"
        if named.parent.name != "releases" or not starter.is_file():
            raise InputError(
                f"{named}: the site file says stage: {stage}; expected a release, and {starter} beside the releases",
                "name ROOT/current with -p, or in the site file's root; or take `stage` out of it",
            )
        return named
    if not (named / "bin" / "activate-cogvideo-sat").is_file():
        raise PrefixError(
            f"{named}: has no bin/activate-cogvideo-sat; expected an environment with its activation script",
            f"{satenv('create -p', named)}, or name another with -p",
        )
    return named


def _output(asked: Asked) -> Path:
    """Return the job's folder."""
    site = asked.site
    if asked.output is None and site.scratch:
        base = Path(os.path.expandvars(site.scratch))
        if "$" in str(base):
            raise InputError(
                f"{site.file}: scratch: {site.scratch}: a variable in it isn't set here", "--output FOLDER"
            )
        return base / f"sat-{asked.kind}"
    found = Path(os.path.abspath(asked.output or f"sat-{asked.kind}"))
    if re.search(r"[\n\"\\]", str(found)):
        raise InputError(
            f"{str(found)!r}: sbatch can't write a log there; its name has a quote or a line break", "--output"
        )
    return found


def _resume(folder: Path | None) -> str:
    if folder is None:
        return ""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; expected that of a run, with numbered checkpoints in it", "--resume"
        )
    return os.path.abspath(folder)


def _program(prefix: Path, doctor: str) -> str:
    """Return satenv as the nodes find it: this checkout's, the environment's own, or the one on PATH."""
    called = Path(sys.argv[0])
    if called.name == "satenv" and called.is_file():
        return os.path.abspath(called)
    own = prefix / "bin" / METAPACKAGE
    if own.is_file():
        return str(own)
    try:
        launcher = project_root() / "scripts" / "satenv"
    except InputError:
        launcher = Path(shutil.which("satenv") or "satenv")
    if not launcher.is_file() and doctor:
        raise MissingToolError(
            "this program has no file that a node could start; the job's doctor needs one",
            "run scripts/satenv of a checkout on a shared disk, or leave the doctor out: --doctor none",
        )
    return str(launcher)


def _write(job: JobScript, files: dict[Path, str], overwrite: bool) -> None:
    """Write the files; none of them when one that the user may have edited would be lost."""
    try:
        for path, content in files.items():
            if not overwrite and path.exists() and path.read_text(encoding="utf-8", errors="replace") != content:
                raise InputError(
                    f"{path}: is there, and differs from what would be written: edited, or of another job",
                    "--overwrite replaces it; --output FOLDER writes elsewhere",
                )
        (job.output / "logs").mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            write_atomically(path, content.encode("utf-8"))
        if job.kind == SHELL:
            job.script.chmod(job.script.stat().st_mode | 0o100)
    except OSError as error:
        raise PrefixError(
            f"{error.filename or job.output}: {error.strerror}; expected to write the job's folder there",
            "--output FOLDER, on a disk that all nodes see",
        ) from error


def submit(written: WrittenJob) -> WrittenJob:
    """Run sbatch; return the same with the job's number.

    Raises InputError for a run that is known to fail, MissingToolError without sbatch, SatenvError when Slurm refuses.
    """
    failing = [item for item in written.findings if item.status == FAILED]
    if failing:
        raise InputError(
            f"not submitted: {failing[0]}" + (f" (and {len(failing) - 1} more)" if len(failing) > 1 else ""),
            f"{failing[0].remedy}; the script is written: sbatch {written.job.script} submits it all the same",
        )
    need("sbatch", f"the script is written; on a login node of the cluster: sbatch {written.job.script}")
    done = run_child(["sbatch", "--parsable", str(written.job.script)], _SBATCH)
    number = done.stdout.strip().partition(";")[0]
    if done.code != 0 or not number.isdigit():
        words = done.problem or " ".join(done.stderr.split()) or done.stdout.strip() or "no reason given"
        raise SatenvError(
            f"sbatch refuses {written.job.script}: {words.removeprefix('sbatch: error: ')}",
            "correct the site file or the script; `sinfo` lists partitions, `sacctmgr show assoc` accounts",
        )
    return WrittenJob(written.job, written.files, written.findings, number)


def need(program: str, remedy: str) -> None:
    """Raise MissingToolError where a program of Slurm isn't on PATH."""
    if shutil.which(program) is None:
        raise MissingToolError(f"no {program} on PATH; expected the commands of Slurm", remedy)

"""Rendering a job script: the options of sbatch and the values that it runs with, then text of templates/ as it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env import __version__
from cogvideo_sat_env.cluster.release_usage import COMMENT
from cogvideo_sat_env.cluster.slurm.site import Site

TRAIN, SAMPLE, SHELL = "train", "sample", "shell"
_TEMPLATES = Path(__file__).resolve().parent / "templates"
_TITLES = {
    TRAIN: "Trains with upstream's train_video.py",
    SAMPLE: "Samples with upstream's sample_video.py",
    SHELL: "A shell in the environment, on a node",
}


@dataclass(frozen=True)
class JobScript:
    """What a script runs. All paths are absolute.

    gpus     a node; 0 is the CPU, one rank a node
    name     of the experiment; SAT's folder of checkpoints begins with it
    parts    model-parallel parts of a checkpoint
    resume   a run's folder to go on from, "" for none
    more     further options of upstream's program
    doctor   the level before the first step, "" for none
    program  satenv, as the nodes find it
    """

    kind: str
    site: Site
    prefix: Path
    sat: Path
    output: Path
    nodes: int
    gpus: int
    bases: Sequence[Path] = ()
    name: str = ""
    parts: int = 1
    resume: str = ""
    seed: int = 42
    more: Sequence[str] = ()
    doctor: str = ""
    program: str = ""

    @property
    def tasks(self) -> int:
        """Ranks a node."""
        return self.gpus or 1

    @property
    def script(self) -> Path:
        """Where the script goes."""
        return self.output / (f"{SHELL}.sh" if self.kind == SHELL else f"{self.kind}.sbatch")


def render(job: JobScript) -> str:
    """Return the script, for bash."""
    values, setup = "\n".join(_values(job)), "\n".join(_setup(job))
    body = _template("environment").replace("@@values@@", values).replace("@@setup@@", setup)
    if job.kind == SHELL:
        asked = " ".join(map(shlex.quote, _options(job)))
        cores = next((word for word in _options(job) if word.startswith("--cpus-per-task=")), "")
        env = f"env SRUN_CPUS_PER_TASK={cores.partition('=')[2]} " if cores else ""  # srun doesn't take it from salloc
        start = _template("shell").replace("@@title@@", _title(job)).replace("@@salloc@@", f"{env}salloc {asked}")
        return f"{start}\n{body}\n{_template('shell_end')}"
    lines = [f"#SBATCH {_directive(word)}" for word in (*_options(job), *_batch_options(job))]
    head = "\n".join(["#!/bin/bash", *lines, "#", f"# {_title(job)}", *_how(job)])
    signals = _template("signals") if job.kind == TRAIN else ""
    return f"{head}\n{body}{signals}{_template('nodes')}{_template(job.kind)}"


def _template(name: str) -> str:
    return (_TEMPLATES / f"{name}.sh").read_text(encoding="utf-8")


def _title(job: JobScript) -> str:
    per = f"{job.gpus} GPUs each" if job.gpus > 1 else "one GPU each" if job.gpus else "on their CPUs"
    where = f"{job.nodes} node{'s' if job.nodes > 1 else ''}, {per}".replace("1 node, one GPU each", "one GPU")
    site = f", for {job.site.name}" if job.site.name else ""
    return f"{_TITLES[job.kind]}: {where}{site}. Written by satenv {__version__}; it is yours to edit."


def _how(job: JobScript) -> list[str]:
    log = job.output / "logs" / "JOB.out"
    lines = [f"#   sbatch {shlex.quote(str(job.script))}", f"#   tail -f {shlex.quote(str(log))}"]
    if job.kind == TRAIN:
        lines.append(f"# To go on from another job's run: sbatch --export=ALL,RESUME=FOLDER {job.script.name}")
    return lines


def _options(job: JobScript) -> list[str]:
    """Return the options of sbatch and salloc that say what is asked of the cluster."""
    site = job.site
    kind = f"{site.gpu_type}:" if site.gpu_type else ""
    found = [f"--job-name=sat-{job.kind}", f"--nodes={job.nodes}"]
    if job.kind != SHELL:
        found.append(f"--ntasks-per-node={job.tasks}")
    if job.gpus:
        gres = site.gpu_request == "gres"
        found.append(f"--gres=gpu:{kind}{job.gpus}" if gres else f"--gpus-per-node={kind}{job.gpus}")
    if site.cpus_per_task:
        count = site.cpus_per_task * (job.tasks if job.kind == SHELL else 1)  # a shell is one task with all of them
        found.append(f"--cpus-per-task={count}")
    for option, value in (
        ("mem", site.memory), ("partition", site.partition), ("account", site.account), ("qos", site.qos),
        ("constraint", site.constraint), ("time", site.time),
    ):  # fmt: skip
        if value:
            found.append(f"--{option}={value}")
    if job.prefix.parent.name == "releases":  # for `releases`, which asks Slurm who uses one
        found.append(f"--comment={COMMENT}{job.prefix.name}")
    return [*found, *site.sbatch]


def _batch_options(job: JobScript) -> list[str]:
    found = [f"--output={str(job.output).replace('%', '%%')}/logs/%j.out"]
    if job.kind == TRAIN:
        found += ["--requeue", "--open-mode=append", f"--signal=B:USR1@{job.site.signal_seconds}"]
    else:
        found.append("--no-requeue")
    return found


def _directive(word: str) -> str:
    """Return an option as a line of #SBATCH takes it, which knows double quotes."""
    return word if re.fullmatch(r"[^\s#\"'\\]+", word) else '"' + re.sub(r'(["\\])', r"\\\1", word) + '"'


def _values(job: JobScript) -> list[str]:
    """Return the assignments at the top of the script."""
    quoted = {name: shlex.quote(str(getattr(job, name))) for name in ("prefix", "sat", "output", "program", "name")}
    lines = [f"PREFIX={quoted['prefix']}", f"SAT={quoted['sat']}", f"OUTPUT={quoted['output']}"]
    node = expandable(job.site.node_tmp) if job.site.node_tmp else "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
    if job.kind == SHELL:
        return [*lines[:2], *_stage(job), f"NODE_TMP={node} # on the node's own disk"]
    lines += _stage(job)
    lines.append("BASES=(")
    lines += [f"    {shlex.quote(str(path))}" for path in job.bases]
    lines += [")", f"MORE=({' '.join(map(shlex.quote, job.more))}) # further options of upstream's program"]
    lines.append(f"SEED={job.seed}")
    if job.kind == TRAIN:
        lines.append(f"NAME={quoted['name']} # of the experiment; the job's number is added")
        resume = shlex.quote(job.resume) if job.resume else ""  # quotes count after `:-` in an unquoted expansion
        lines.append(f"RESUME=${{RESUME:-{resume}}} # a run's folder to go on from; empty: as the YAMLs say")
        lines.append(f"REQUEUES={job.site.requeues} # how often this job goes on by itself, at most")
    lines.append(f"SATENV={quoted['program']}")
    level = f"--level {job.doctor}" if job.doctor else ""
    lines.append(f"DOCTOR=({level}) # its options before the first step, e.g. --skip imports; empty: no doctor")
    lines.append(f"BACKEND={'nccl' if job.gpus else 'gloo'}")
    lines.append(f"INTERFACE={shlex.quote(job.site.interface) if job.site.interface else ''}"
                 " # between the nodes; empty: the one that leads to the other node")  # fmt: skip
    lines.append(f"NODE_TMP={node} # on each node's own disk")
    if job.kind == TRAIN and job.parts > 1:
        lines.append(f"export SATENV_JOB_PARTS={job.parts} # files of a whole checkpoint: model parallel")
    if not job.gpus:
        lines.append("export SATENV_JOB_DEVICE=cpu # upstream's CUDA calls are answered by the CPU")
    return lines


def _stage(job: JobScript) -> list[str]:
    how = job.site.stage
    return [f"STAGE={how} # how each node gets the release's image: auto, mount, copy, shared"] if how else []


def _setup(job: JobScript) -> list[str]:
    """Return the lines that set the site's modules, proxies and variables, and activate the environment."""
    site = job.site
    lines: list[str] = []
    if site.modules or site.module_use:
        lines.append("set +eu # the site's own scripts")
        if site.module_init:
            lines += ["if ! type module >/dev/null 2>&1; then", "    # shellcheck source=/dev/null",
                      f"    . {shlex.quote(site.module_init)}", "fi"]  # fmt: skip
        lines += [f"module use {shlex.quote(folder)}" for folder in site.module_use]
        lines += [f"module load {shlex.quote(name)} || die {shlex.quote(f'module load {name}: failed')}"
                  for name in site.modules]  # fmt: skip
        lines.append("set -eu")
    for name in ("http", "https", "no_proxy"):
        if name in site.proxies:
            key = name if name == "no_proxy" else f"{name}_proxy"
            value = shlex.quote(site.proxies[name])
            lines.append(f"export {key}={value} {key.upper()}={value}")
    lines += [f"export {name}={expandable(value)}" for name, value in site.variables.items()]
    if site.cpus_per_task:
        lines.append(f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{site.cpus_per_task}}}")
        if job.kind != SHELL:
            lines.append(f"export SRUN_CPUS_PER_TASK={site.cpus_per_task} # srun no longer takes it from sbatch")
    else:
        lines.append("export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}")
    if site.stage:
        lines += [
            "RELEASE=$PREFIX",
            'activate=$("${RELEASE%/releases/*}/stage" "$RELEASE" --how "$STAGE") || die "it isn\'t staged"',
            """trap '"${RELEASE%/releases/*}/stage" "$RELEASE" --release || :' EXIT""",
        ]
    else:
        lines += [
            "activate=$PREFIX/bin/activate-cogvideo-sat",
            '[ -r "$activate" ] || die "$(hostname): $PREFIX: no environment, or not readable"',
        ]
    lines += ["# shellcheck source=/dev/null", '. "$activate"']
    if site.stage:
        lines.append("PREFIX=$CONDA_PREFIX # where the image is mounted or unpacked")
    return lines


def expandable(text: str) -> str:
    """Return `text` for bash with its $NAME and ${NAME} left to bash, and nothing else."""
    return '"' + re.sub(r'["`\\]|\$(?!\{?[A-Za-z_]\w*)', r"\\\g<0>", text) + '"'

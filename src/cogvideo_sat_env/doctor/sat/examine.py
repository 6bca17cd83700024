"""Everything that reading a checkout and its configs tells, as the inputs of the doctor's checks `sat.*`."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.doctor import gpu_memory
from cogvideo_sat_env.doctor.checks._probe import ProbeOutcome, failed, not_run, passed, warning
from cogvideo_sat_env.doctor.sat import checkout, clips, code, configs, rules, shrink, weights
from cogvideo_sat_env.doctor.sat.finding import FAILED, WARNING, Finding
from cogvideo_sat_env.doctor.sat.rules import Run

PLACEHOLDER = "SATENV-RUN-FOLDER"
ENTRIES = ("train_video.py", "sample_video.py")


@dataclass(frozen=True)
class SatOptions:
    """What is to be examined: the checkout, the YAMLs of a run, and further options of its command line."""

    folder: Path
    bases: Sequence[Path] = ()
    options: Sequence[str] = ()


def open_run(asked: SatOptions) -> tuple[checkout.Checkout, Run | None]:
    """Return the checkout, and the run where YAMLs are named. Raises InputError for what can't be read."""
    found = checkout.find(asked.folder)
    if not asked.bases:
        return found, None
    paths = [_base(found, path) for path in asked.bases]
    return found, Run(found, configs.read(paths), tuple(_pairs(asked.options)))


def _base(found: checkout.Checkout, path: Path) -> Path:
    """Return a YAML as typed: from here, or from sat/, where upstream is started."""
    path = path.expanduser()
    inside = found.folder / path
    if not path.is_file() and inside.is_file():
        return inside
    if not path.is_file():
        near = sorted(p.name for p in (found.folder / "configs").glob("*.yaml"))
        raise InputError(
            f"{path}: no such file, neither here nor in {found.folder}; expected a YAML of the run",
            f"there are configs/{', configs/'.join(near)}" if near else "name the YAMLs as upstream's --base does",
        )
    return Path(os.path.abspath(path))


def _pairs(options: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, value) of `--name value` and `--name=value`; a flag has the value True."""
    found, words = [], list(options)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "True"
        found.append((name.replace("-", "_"), value))
    return found


def static_findings(found: checkout.Checkout, run: Run | None, sat: Path | None) -> dict[str, list[Finding]]:
    """Return what reading finds, by subject; `sat` is the installed SwissArmyTransformer's folder."""
    result = {"scripts": list(code.scripts(found))}
    if run is not None:
        result["configs"] = [*rules.judge(run), *code.targets(run), *code.options(run, sat)]
        result["weights"] = list(weights.examine(run))
        result["data"] = list(clips.examine(run))
    return result


def inputs(asked: SatOptions, prefix: Path, gpus: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the probes of checks/sat.py get. Raises InputError."""
    found, run = open_run(asked)
    packages = sorted(prefix.glob("lib/python3.*/site-packages/sat"))
    by_subject = static_findings(found, run, packages[0] if packages else None)
    status, text, changed = code.state(found)
    read = {name: _outcome(name, items) for name, items in by_subject.items()}
    remedy = f"git -C '{found.top}' checkout {checkout.KNOWN_GOOD[:12]}" if status == WARNING and found.top else None
    read["checkout"] = ProbeOutcome(status, text, remedy, {"modified": changed})
    if run is not None:
        read["memory"], read["disk"] = _memory(run, gpus), _disk(run)
    result: dict[str, Any] = {
        "folder": str(found.folder), "read": {name: asdict(outcome) for name, outcome in read.items()},
        "bases": [str(path) for path in run.config.files] if run else [],
        "modules": reached(found), "entries": [name for name in ENTRIES if (found.folder / name).is_file()],
        "captions": [], "clips": None, "run": None,
    }  # fmt: skip
    if run is None:
        return result
    result |= _data(run)
    sections = any(item.id == "sat.sections" for item in by_subject["configs"])
    if run.training and not sections:
        result["run"] = _plan(run, on_cpu=not gpus)
    else:
        result["no_run"] = "name a training run's YAMLs (a model's and sft.yaml) to have three steps of it taken"
    return result


def _outcome(subject: str, findings: list[Finding]) -> ProbeOutcome:
    """Return the findings of one subject as one outcome; all of them are in its details."""
    details = {"findings": [item.to_json() for item in findings]}
    if not findings:
        good = {
            "configs": "nothing in these YAMLs is known to fail",
            "weights": "checkpoint, VAE and T5 are there and whole",
            "data": "clips and captions pair",
            "scripts": "the shell scripts name files that exist, and report failures",
        }
        return passed(good[subject], **details)
    worst = [item for item in findings if item.status == FAILED] or findings
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    lines = [f"{item.where}: {item.finding}" for item in [*worst, *(i for i in findings if i not in worst)]]
    remedies = list(dict.fromkeys(f"{item.where}: {item.remedy}" for item in findings))
    return ProbeOutcome(worst[0].status, lines[0] + more, "; ".join(remedies[:12]), details | {"all": lines})


def reached(found: checkout.Checkout) -> list[str]:
    """Return the modules of the checkout that its entry points import, directly or through each other."""
    todo = [name.removesuffix(".py") for name in ENTRIES if (found.folder / name).is_file()]
    seen: list[str] = []
    while todo:
        module = todo.pop(0)
        file = found.module(module)
        if module in seen or file is None:
            continue
        seen.append(module)
        todo += _imported(file, module, file.name == "__init__.py")
    return seen


def _imported(file: Path, module: str, package: bool) -> list[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
    except SyntaxError:
        return []  # importing it says so
    found: list[str] = []
    for node in ast.iter_child_nodes(tree):  # at its top: what stands in functions is loaded when it is needed
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            found += [name, *(f"{name}.{alias.name}" for alias in node.names)]
    return [name for name in found if name]


def _data(run: Run) -> dict[str, Any]:
    """Return the clips that SFTDataset would read, and captions for the shrunk run."""
    params = run.config.get("data.params") or {}
    paths: list[str] = []
    captioned = 0
    texts: list[str] = []
    if str(run.config.get("data.target", "")).endswith("SFTDataset"):
        for at, value in clips.folders(run):
            folder = weights.resolve(run, value)
            if at != "args.train_data" or not folder.is_dir():
                continue
            try:
                found = clips.walk(folder)
            except OSError:
                continue  # named by sat.data
            paths += found.clips
            captioned += len(found.clips) - len(found.without_caption)
            for clip in found.clips[:2]:
                caption = Path(clips.caption_of(clip))
                if caption.is_file():
                    texts += caption.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
    facts = {
        "paths": paths, "captions": captioned, "fps": params.get("fps", 8),
        "frames": params.get("max_num_frames", 49), "skip": params.get("skip_frms_num", 3),
    }  # fmt: skip
    return {"clips": facts, "captions": [text for text in texts if text.strip()]}


def _plan(run: Run, on_cpu: bool) -> dict[str, Any]:
    """Return how three steps of a run are taken, shrunk, and a sample after them."""
    config = shrink.shrunk(run, on_cpu, PLACEHOLDER)
    if on_cpu:
        config["args"] |= {"device": "cpu", "local_rank": "cpu"}  # upstream wants them equal
    plan: dict[str, Any] = {
        "placeholder": PLACEHOLDER, "device": "cpu" if on_cpu else "gpu", "steps": shrink.STEPS, "config": config,
        "sample": None,
    }  # fmt: skip
    inference = run.checkout.folder / "configs" / "inference.yaml"
    if inference.is_file() and not run.config.get("model.noised_image_input"):  # image-to-video asks for an image
        first = run.config.files[0]
        sampling = Run(run.checkout, configs.read([first, inference]))
        sample = shrink.shrunk(sampling, on_cpu, PLACEHOLDER)
        sample["model"] = config["model"]
        sample["args"] |= {"bf16": True, "fp16": False, "force_inference": True}
        if on_cpu:
            sample["args"] |= {"device": "cpu", "distributed_backend": "gloo"}
        plan["sample"] = sample
    return plan


def _memory(run: Run, gpus: Sequence[Mapping[str, Any]]) -> ProbeOutcome:
    """Return whether the run fits: its own model, batch, frames, size and ZeRO stage."""
    setup = setup_of(run, len(gpus) or 1)
    if setup is None:
        return not_run("the model is none of those that are known (2B, 5B)")
    try:
        found = gpu_memory.estimate(setup)
    except InputError as error:
        return warning(error.message, error.remedy)
    sizes = f"{setup.model}, {setup.method}, {setup.frames} frames of {setup.height}x{setup.width}, batch"
    text = f"{sizes} {setup.batch}, ZeRO-{setup.zero} on {setup.gpus} GPU{'s' if setup.gpus > 1 else ''}"
    if not gpus:
        return passed(f"{text}: {found.total} a GPU, estimated; no GPU is here to compare")
    least = min(int(gpu["memory_mib"]) for gpu in gpus) * 2**20
    verdict = found.verdict(least)
    finding = f"{text}: {found.total} a GPU, estimated; the smallest here has {human_bytes(least)}: {verdict}"
    if verdict == gpu_memory.FITS:
        return passed(finding)
    judge = failed if verdict == gpu_memory.NO else warning
    return judge(finding, "a smaller train_micro_batch_size_per_gpu, fewer frames, LoRA, more GPUs, or ZeRO stage 3")


def setup_of(run: Run, gpus: int) -> gpu_memory.TrainingSetup | None:
    """Return the memory estimate's setup of a training run, None for a model that it doesn't know."""
    get = run.config.get
    size = get("data.params.video_size")
    if run.model is None or not run.training or not (isinstance(size, list) and len(size) == 2):
        return None
    method = "lora" if get(rules.LORA) and "all" in (get("model.not_trainable_prefixes") or []) else "full"
    dtype = next((name for name in ("bf16", "fp16") if get(f"deepspeed.{name}.enabled")), "fp32")
    return gpu_memory.TrainingSetup(
        run.model, method, gpus, get("deepspeed.zero_optimization.stage", 0), get(rules.FRAMES, 49), size[0], size[1],
        get("deepspeed.train_micro_batch_size_per_gpu", 1), dtype,
    )  # fmt: skip


def _disk(run: Run) -> ProbeOutcome:
    """Return whether the checkpoints of the run find room: SAT saves all weights, T5 and VAE too, EMA once more."""
    get = run.config.get
    if run.model is None or not run.training or not isinstance(get("args.save"), str) or "{" in str(get("args.save")):
        return not_run("no training run that saves, of a model that is known")
    one = gpu_memory.checkpoint_bytes(run.model)
    ema = str(get("deepspeed.optimizer.type", "")).endswith("FusedEmaAdam")
    steps, interval = get("args.train_iters") or 0, get("args.save_interval") or 0
    saves = max(1, -(-steps // interval)) if steps and interval else 1
    needed = one * saves * (2 if ema else 1)
    folder = weights.resolve(run, get("args.save"))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    often = f"{saves} checkpoints" if saves > 1 else "one checkpoint"
    finding = (
        f"{often} of about {human_bytes(one)}{', each with its EMA' if ema else ''}: {human_bytes(needed)};"
        f" {human_bytes(free)} are free in {there}"
    )
    if needed > free:
        return failed(finding, "a larger save_interval, or `save` on a larger disk")
    return passed(finding)

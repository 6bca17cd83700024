"""Training: SAT's own training_main under DeepSpeed ZeRO-2, and SAT's own checkpoints."""

from __future__ import annotations

import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from . import _ranks, _tiny, _train
from ._probe import ProbeOutcome, ProbeRequest, failed, one_line, passed, warning

_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_LOSS_TOLERANCE = 0.02  # relative, between ways to the same sum in bf16, which has 8 bits; measured: below 0.002
_RANKS_LIMIT = 500.0


def zero2(request: ProbeRequest) -> ProbeOutcome:
    """Take optimizer steps on a fixed batch, each of two accumulated samples, and save two checkpoints."""
    _tiny.prepare_cpu()
    record = _train.train(request.shared / "training")
    _train.remember(request.shared, record)
    problem = _judge(record)
    return problem or passed(
        f"{_train.STEPS} ZeRO-2 steps of a tiny SAT transformer on the CPU, {record['accumulation']} samples"
        f" accumulated (DeepSpeed {record['deepspeed']}, torch {record['torch']}): loss {_shown(record['losses'])}",
        **_public(record),
    )


def checkpoint(request: ProbeRequest) -> ProbeOutcome:
    """Load the checkpoint that SAT saved, with SAT's load_checkpoint, and compare every weight."""
    _tiny.prepare_cpu()
    record = _train.reference(request.shared, request.workdir)
    import torch
    from sat.model.base_model import get_model
    from sat.training.model_io import load_checkpoint

    args = _tiny.arguments(request.workdir, load=record["checkpoint"])
    with _tiny.on("cpu"):
        model = get_model(args, _tiny.model_class())
        try:
            load_checkpoint(model, args)
        except pickle.UnpicklingError as error:
            reason = "Weights only load failed" if "Weights only load failed" in str(error) else one_line(error)
            return failed(
                f"SAT can't load its own checkpoint: {reason} ({_VARIABLE} is"
                f" {os.environ.get(_VARIABLE, 'not set')}, torch {torch.__version__})",
                error=str(error)[:2000],
            )
    if _train.digest(model) != record["digest"]:
        return failed("the weights after SAT's load_checkpoint are not those that were saved")
    with torch.no_grad():
        finite = bool(torch.isfinite(model.predict(_tiny.batch())).all())
    if not finite:
        return failed("the model gives values that are not finite after loading")
    size = sum(path.stat().st_size for path in Path(record["checkpoint"], str(_train.STEPS)).rglob("*.pt"))
    finding = f"SAT saved a checkpoint with random-number state ({size:,} bytes) and loaded it, every weight equal"
    by_activation = _VARIABLE in request.inputs["activation"]["sets"]
    if os.environ.get(_VARIABLE) and not request.inputs["foreign"] and not by_activation:
        return warning(
            f"{finding}; but only because your shell sets {_VARIABLE}, activation does not",
            f"conda env config vars set -p '{request.inputs['prefix']}' {_VARIABLE}=1",
        )
    return passed(finding)


def resume(request: ProbeRequest) -> ProbeOutcome:
    """Go on from the checkpoint in the middle of the run: the next loss is the one that the run itself had there."""
    _tiny.prepare_cpu()
    record = _train.reference(request.shared, request.workdir)
    middle = request.workdir / "middle"
    shutil.copytree(Path(record["checkpoint"], str(_train.SAVED)), middle / str(_train.SAVED))
    (middle / "latest").write_text(str(_train.SAVED), encoding="utf-8")
    runs = [_train.train(request.workdir / name, load=str(middle)) for name in ("first", "second")]
    wanted, left = record["losses"][_train.SAVED], _train.STEPS - _train.SAVED
    losses = runs[0]["losses"]
    if len(losses) != left or not all(map(math.isfinite, losses)):
        return failed(f"resumed at step {_train.SAVED}: {left} finite losses expected, got {_shown(losses)}")
    if not math.isclose(losses[0], wanted, rel_tol=1e-5):
        return failed(
            f"resumed at step {_train.SAVED}, the next loss is {losses[0]:.6f}; the run that was not interrupted had"
            f" {wanted:.6f}",
            "load the checkpoint with SAT's load_checkpoint and compare its weights with those in memory",
            losses=losses, uninterrupted=record["losses"],
        )  # fmt: skip
    if runs[1]["losses"] != losses or runs[1]["digest"] != runs[0]["digest"]:
        return failed(
            f"resumed twice, the losses differ: {_shown(losses)} and {_shown(runs[1]['losses'])}", losses=losses
        )
    return passed(
        f"resumed at step {_train.SAVED}: the next loss is {losses[0]:.4f} as without the interruption, and twice the"
        " same to the end (SAT saves no optimizer state: the moments start anew)",
        losses=losses, uninterrupted=record["losses"],
    )  # fmt: skip


def lora(request: ProbeRequest) -> ProbeOutcome:
    """Train with SAT's LoraMixin under ZeRO-2: the loss goes down, and nothing but LoRA's matrices changes."""
    _tiny.prepare_cpu()
    record = _train.train(request.shared / "training-lora", lora=True)
    problem = _judge(record)
    if problem is not None:
        return problem
    before, after = record["frozen"]
    if before != after:
        return failed("training with LoRA changes weights that must stay as they are", **_public(record))
    _train.remember(request.shared, record, lora=True)
    return passed(
        f"{_train.STEPS} ZeRO-2 steps of LoRA, rank {_tiny.LORA_RANK}: loss {_shown(record['losses'])}; every other"
        " weight unchanged",
        **_public(record),
    )


def two_processes(request: ProbeRequest) -> ProbeOutcome:
    """Two ranks side by side under torchrun take the same steps as one rank that accumulates."""
    _tiny.prepare_cpu()
    record = _train.reference(request.shared, request.workdir)
    ranks = _ranks.launch(request, "training", "one_of_two", 2, _RANKS_LIMIT)
    if ranks.problem is not None:
        return ranks.problem
    first, second = (outcome.details for outcome in ranks.outcomes)
    problem = _judge(first)
    if problem is not None:
        return problem
    if first["digest"] != second["digest"]:
        return failed("after the last step the two processes have different weights", **_public(first))
    pairs = zip(first["losses"], record["losses"], strict=True)
    if not all(math.isclose(one, other, rel_tol=_LOSS_TOLERANCE) for one, other in pairs):
        return failed(
            f"two processes: loss {_shown(first['losses'])}; one process on the same batch:"
            f" {_shown(record['losses'])}: gradients are not averaged over the processes as they must be",
            one=record["losses"], **_public(first),
        )  # fmt: skip
    return passed(
        f"two processes under torchrun with gloo: the losses of one process ({_shown(first['losses'])}), the same"
        " weights in both",
        one=record["losses"], **_public(first),
    )  # fmt: skip


def one_of_two(request: ProbeRequest) -> ProbeOutcome:
    """Train as one rank of training.two-processes."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["DS_ACCELERATOR"] = "cpu"
    return passed("trained", **_train.train(request.workdir / f"rank-{os.environ['RANK']}"))


def gpu(request: ProbeRequest) -> ProbeOutcome:
    """Train on the GPUs, one process each and two at most, with NCCL, in bf16 where they have it, and in fp16."""
    gpus = request.inputs["gpu"]["gpus"]
    ranks = _ranks.launch(request, "training", "one_of_gpus", min(2, len(gpus)), _RANKS_LIMIT)
    if ranks.problem is not None:
        return ranks.problem
    runs = [outcome.details["runs"] for outcome in ranks.outcomes]
    for own in zip(*runs, strict=True):
        problem = _judge(own[0])
        if problem is not None:
            return problem
        if len({run["digest"] for run in own}) > 1:
            return failed(f"{own[0]['precision']}: after the last step the GPUs have different weights")
    summary = "; ".join(f"{run['precision']}: loss {_shown(run['losses'])}" for run in runs[0])
    return passed(f"{len(runs)} processes with NCCL, ZeRO-2: {summary}", runs=[_public(run) for run in runs[0]])


def one_of_gpus(request: ProbeRequest) -> ProbeOutcome:
    """Train as one rank of training.gpu."""
    import torch

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    kinds = ["bf16", "fp16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["fp16"]
    folder = request.workdir / f"rank-{os.environ['RANK']}"
    return passed("trained", runs=[_train.train(folder / kind, device="cuda", precision=kind) for kind in kinds])


def _judge(record: dict[str, Any]) -> ProbeOutcome | None:
    """Return what is wrong with a run, or None."""
    losses = record["losses"]
    if len(losses) != _train.STEPS or not all(map(math.isfinite, losses)):
        return failed(f"{_train.STEPS} steps expected, all finite; the losses are {_shown(losses)}", **_public(record))
    if losses[-1] >= losses[0]:
        return failed(f"the loss on a fixed batch doesn't go down: {_shown(losses)}", **_public(record))
    return None


def _public(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without the folder that is gone when the report is read."""
    return {name: value for name, value in record.items() if name != "checkpoint"}


def _shown(losses: list[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)

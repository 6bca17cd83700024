"""Training: SAT's own training_main under DeepSpeed ZeRO-2 on the CPU, and SAT's own checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _tiny
from ._probe import Outcome, Request, failed, one_line, passed, warning

STEPS = 3
_RATE = 5e-3
_VARIABLE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_RECORD = "trained.json"


def zero2(request: Request) -> Outcome:
    """Take three optimizer steps on a fixed batch and save a checkpoint."""
    record = _train(request.shared / "training")
    record.pop("checkpoint")  # gone when the report is read
    losses = record["losses"]
    shown = ", ".join(f"{loss:.4f}" for loss in losses)
    if len(losses) != STEPS or not all(map(math.isfinite, losses)):
        return failed(f"{STEPS} steps expected, all finite; the losses are {shown}", **record)
    if losses[-1] >= losses[0]:
        return failed(f"the loss on a fixed batch doesn't go down: {shown}", **record)
    return passed(
        f"{STEPS} ZeRO-2 steps of a tiny SAT transformer on the CPU (DeepSpeed {record['deepspeed']}, torch"
        f" {record['torch']}): loss {shown}",
        **record,
    )


def checkpoint(request: Request) -> Outcome:
    """Load the checkpoint that SAT saved, with SAT's load_checkpoint, and compare every weight."""
    folder = request.shared / "training"
    if not (folder / _RECORD).is_file():  # run alone, or zero2 failed: then this fails for zero2's reason
        folder = request.workdir
        _train(folder)
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    _tiny.prepare_cpu()
    import torch
    from sat.model.base_model import get_model
    from sat.training.model_io import load_checkpoint

    args = _tiny.arguments(request.workdir, load=record["checkpoint"])
    with _tiny.cpu_in_place_of_cuda():
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
    if _digest(model) != record["digest"]:
        return failed("the weights after SAT's load_checkpoint are not those that were saved")
    with torch.no_grad():
        finite = bool(torch.isfinite(model.predict(_tiny.batch())).all())
    if not finite:
        return failed("the model gives values that are not finite after loading")
    size = sum(path.stat().st_size for path in Path(record["checkpoint"]).rglob("*.pt"))
    finding = f"SAT saved a checkpoint with random-number state ({size:,} bytes) and loaded it, every weight equal"
    if os.environ.get(_VARIABLE) and _VARIABLE not in request.inputs["activation"]["sets"]:
        return warning(
            f"{finding}; but only because your shell sets {_VARIABLE}, activation does not",
            f"conda env config vars set -p '{request.inputs['prefix']}' {_VARIABLE}=1",
        )
    return passed(finding)


def _train(folder: Path) -> dict[str, Any]:
    """Run SAT's training_main for STEPS steps below `folder`; return and write down what happened."""
    _tiny.prepare_cpu()
    import deepspeed
    import torch
    from sat.arguments import initialize_distributed, set_random_seed
    from sat.training.deepspeed_training import training_main

    folder.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []

    class FixedSample(torch.utils.data.Dataset):  # type: ignore[misc,unused-ignore]
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, Any]:
            return _tiny.sample()

    def forward_step(data: Iterator[Any], model: Any, args: Any, timers: Any) -> tuple[Any, dict[str, Any]]:
        found = next(data)
        predicted = model.predict(found)  # past DeepSpeed's engine, as CogVideo calls shared_step
        loss = torch.nn.functional.mse_loss(predicted.float(), _tiny.to_patches(found["noise"]).float())
        losses.append(float(loss.detach()))
        return loss, {"loss": loss.detach()}

    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "steps_per_print": 1000,
        # as in the shipped sft.yaml
        "zero_optimization": {
            "stage": 2, "cpu_offload": False, "contiguous_gradients": False, "overlap_comm": True,
            "reduce_scatter": True, "reduce_bucket_size": 1000000000, "allgather_bucket_size": 1000000000,
            "load_from_fp32_weights": False,
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        # torch's own AdamW: DeepSpeed's is compiled for minutes, FusedEmaAdam needs CUDA
        "optimizer": {"type": "AdamW", "params": {"lr": _RATE, "betas": [0.9, 0.95], "torch_adam": True}},
    }  # fmt: skip
    args = _tiny.arguments(
        folder, deepspeed=True, deepspeed_config=config, deepspeed_activation_checkpointing=False,
        batch_size=2, gradient_accumulation_steps=1, lr=_RATE, lr_decay_style="constant", warmup=0.0,
        train_iters=STEPS, log_interval=1, save=str(folder / "saved"), save_interval=1000,
        train_data=["fixed"], split="1",
        mode="pretrain",  # fine-tuning warms up for 100 steps
    )  # fmt: skip
    with _tiny.cpu_in_place_of_cuda():
        initialize_distributed(args)
        set_random_seed(args.seed)
        engine = training_main(
            args, model_cls=_tiny.model_class(), forward_step_function=forward_step,
            create_dataset_function=lambda path, args: FixedSample(),
        )  # fmt: skip
    record = {
        "losses": losses, "checkpoint": args.save, "digest": _digest(engine.module), "zero_stage":
        engine.zero_optimization_stage(), "deepspeed": deepspeed.__version__, "torch": torch.__version__,
    }  # fmt: skip
    (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    return record


def _digest(model: Any) -> str:
    """Return one hash of all weights, names included."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""A short run of SAT's own training_main under DeepSpeed ZeRO-2 on the tiny model, in this process as one rank."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _tiny

STEPS = 4
SAVED = 2  # the step after which the checkpoint to resume from is written
SAMPLES = 2  # of the fixed global batch: as many as ranks, or as steps of gradient accumulation of one rank
_RATE, _LORA_RATE = 5e-3, 2e-2  # few small matrices have to move further


def train(folder: Path, *, device: str = "cpu", load: str | None = None, precision: str = "bf16",
          lora: bool = False) -> dict[str, Any]:  # fmt: skip
    """Train below `folder` to step STEPS and save; return losses by step, weights' hash, checkpoint, versions.

    The environment says which rank this is. The global batch is the same SAMPLES samples in every step: one rank takes
    them by gradient accumulation, two ranks side by side. `load`: a checkpoint of SAT's to go on from. `lora`: only
    LoRA's matrices are trained; the hash of all other weights, before and after, is in the record too.
    """
    import deepspeed
    import torch
    from sat.arguments import initialize_distributed, set_random_seed
    from sat.training.deepspeed_training import training_main

    folder.mkdir(parents=True, exist_ok=True)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    accumulation = max(1, SAMPLES // ranks)
    rate = _LORA_RATE if lora else _RATE
    losses: list[float] = []

    class FixedBatch(torch.utils.data.Dataset):  # type: ignore[misc,unused-ignore]
        """Whatever index is asked for: the next sample of the global batch that is this rank's."""

        asked = 0

        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, Any]:
            number = self.asked * ranks + rank
            self.asked += 1
            return _tiny.sample(1 + number % SAMPLES)

    def forward_step(data: Iterator[Any], model: Any, args: Any, timers: Any) -> tuple[Any, dict[str, Any]]:
        loss = _tiny.loss_of(model, next(data))
        whole = loss.detach().clone()
        torch.distributed.all_reduce(whole)
        losses.append(float(whole) / ranks)
        return loss, {"loss": loss.detach()}

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": 1.0,
        "steps_per_print": 1000,
        # as in the shipped sft.yaml
        "zero_optimization": {
            "stage": 2, "cpu_offload": False, "contiguous_gradients": False, "overlap_comm": True,
            "reduce_scatter": True, "reduce_bucket_size": 1000000000, "allgather_bucket_size": 1000000000,
            "load_from_fp32_weights": False,
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "initial_scale_power": 8},  # no step skipped by overflow
        # torch's own AdamW: DeepSpeed's is compiled for minutes, FusedEmaAdam needs CUDA
        "optimizer": {"type": "AdamW", "params": {"lr": rate, "betas": [0.9, 0.95], "torch_adam": True}},
    }  # fmt: skip
    args = _tiny.arguments(
        folder, device, deepspeed=True, deepspeed_config=config, deepspeed_activation_checkpointing=False,
        batch_size=1, gradient_accumulation_steps=accumulation, lr=rate, lr_decay_style="constant", warmup=0.01,
        train_iters=STEPS, log_interval=1, save=str(folder / "saved"), save_interval=SAVED, load=load,
        train_data=["fixed"], split="1", bf16=precision == "bf16", fp16=precision == "fp16",
        mode="pretrain",  # fine-tuning warms up for 100 steps and counts them from 0 again
        no_load_rng=True,  # SAT 0.4.12 asks for rng_tracker_states, which it never saves, and ends the process
    )  # fmt: skip
    frozen: list[str] = []
    with _tiny.on(device):
        initialize_distributed(args)
        set_random_seed(args.seed)
        engine = training_main(
            args, model_cls=_tiny.model_class(lora=lora), forward_step_function=forward_step,
            create_dataset_function=lambda path, args: FixedBatch(),
            init_function=lambda args, model: frozen.append(digest(model, lora=False)),
        )  # fmt: skip
    steps = [sum(losses[at : at + accumulation]) / accumulation for at in range(0, len(losses), accumulation)]
    return {
        "losses": steps, "accumulation": accumulation, "ranks": ranks, "checkpoint": args.save,
        "digest": digest(engine.module), "frozen": [*frozen, digest(engine.module, lora=False)],
        "zero_stage": engine.zero_optimization_stage(), "precision": precision,
        "deepspeed": deepspeed.__version__, "torch": torch.__version__,
    }  # fmt: skip


def digest(model: Any, lora: bool = True) -> str:
    """Return one hash of all weights, names included; without those of LoRA when asked."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if _tiny.is_lora(name) and not lora:
            continue
        found.update(name.encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def reference(shared: Path, workdir: Path, lora: bool = False) -> dict[str, Any]:
    """Return the record of training.zero2 (`lora`: of training.lora), or, when that check was not run or failed, of a
    run of the same here.
    """
    path = _record(shared, lora)
    if not path.is_file():
        return train(workdir / "reference", lora=lora)
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def remember(shared: Path, record: dict[str, Any], lora: bool = False) -> None:
    """Keep the record of training.zero2 (`lora`: of training.lora) for the checks that go on from it."""
    path = _record(shared, lora)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_text(json.dumps(record), encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)


def _record(shared: Path, lora: bool) -> Path:
    return shared / ("training-lora" if lora else "training") / "trained.json"

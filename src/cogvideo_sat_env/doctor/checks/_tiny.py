"""A tiny video diffusion transformer from SAT's own BaseModel and mixins, and what makes SAT run on a CPU."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HIDDEN, HEADS, LAYERS = 64, 4, 2
TEXT, FRAMES, CHANNELS, SIDE, PATCH = 4, 2, 4, 8, 2  # tokens of text; latent frames, channels, height = width; patch
PATCHES = FRAMES * (SIDE // PATCH) ** 2


def prepare_cpu() -> None:
    """Set what DeepSpeed and torch read when they are imported: a CPU job of one process. Call before any import."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same on every machine; a GPU may be somebody else's
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["LOCAL_RANK"] = os.environ["RANK"] = "0"
    os.environ["WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"] = "1"


@contextmanager
def cpu_in_place_of_cuda() -> Iterator[None]:
    """Answer the CUDA calls that SAT's training and checkpoints hard-code. Nothing else is replaced."""
    from unittest.mock import patch

    import torch

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    state = torch.zeros(16, dtype=torch.uint8)
    with (
        patch.object(torch.Tensor, "cuda", stay),
        patch.object(torch.nn.Module, "cuda", stay),
        patch.object(torch.cuda, "synchronize", lambda *args, **kwargs: None),
        patch.object(torch.cuda, "get_rng_state", lambda *args, **kwargs: state.clone()),
        patch.object(torch.cuda, "set_rng_state", lambda *args, **kwargs: None),
    ):
        yield


def arguments(folder: Path, **changes: Any) -> argparse.Namespace:
    """Return the arguments of a SAT training run (SAT's own parsers and defaults), made for one CPU process."""
    import sat.arguments as parsers

    parser = argparse.ArgumentParser()
    for add in (
        parsers.add_model_config_args, parsers.add_training_args, parsers.add_evaluation_args, parsers.add_data_args
    ):  # fmt: skip
        add(parser)
    args = parser.parse_args([])
    values: dict[str, Any] = {
        "num_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "vocab_size": 16,
        "max_sequence_length": TEXT + PATCHES, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "mode": "finetune", "seed": 42, "device": "cpu", "local_rank": 0, "rank": 0, "world_size": 1,
        "model_parallel_size": 1, "distributed_backend": "gloo", "cuda": False, "deepspeed": False,
        "deepspeed_config": None, "zero_stage": 2, "bf16": True, "num_workers": 0, "summary_dir": str(folder),
        "experiment_name": "doctor", "iterable_dataset": False, "iterable_dataset_eval": False, "eval_interval": None,
    }  # fmt: skip
    for name, value in (values | changes).items():
        setattr(args, name, value)
    return args


def model_class() -> Any:
    """Return the model's class; a function, because SAT is imported only here.

    Patches of latents and projected text as tokens, sinusoidal positions, adaptive layer norm at the end: the shape of
    CogVideoX's dit_video_concat.py, 100,000 parameters.
    """
    import torch
    from sat.model.base_model import BaseModel
    from sat.model.mixins import BaseMixin

    class PatchEmbedding(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Linear(CHANNELS * PATCH * PATCH, HIDDEN)
            self.text = torch.nn.Linear(HIDDEN, HIDDEN)

        def word_embedding_forward(self, input_ids: Any, **kwargs: Any) -> Any:
            return torch.cat([self.text(kwargs["text"]), self.patches(to_patches(kwargs["latents"]))], dim=1)

    class SinusoidalPositions(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            steps = torch.arange(TEXT + PATCHES).float()[:, None]
            rates = 10000.0 ** (-torch.arange(HIDDEN // 2).float() / (HIDDEN // 2))
            table = torch.cat([torch.sin(steps * rates), torch.cos(steps * rates)], dim=1)
            self.table = torch.nn.Parameter(table[None], requires_grad=False)

        def position_embedding_forward(self, position_ids: Any, **kwargs: Any) -> Any:
            return self.table

    class FinalLayer(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(HIDDEN, elementwise_affine=False)
            self.modulation = torch.nn.Linear(HIDDEN, 2 * HIDDEN)
            self.output = torch.nn.Linear(HIDDEN, CHANNELS * PATCH * PATCH)

        def final_forward(self, logits: Any, **kwargs: Any) -> Any:
            shift, scale = self.modulation(kwargs["time"]).chunk(2, dim=-1)
            return self.output(self.norm(logits[:, TEXT:]) * (1 + scale[:, None]) + shift[:, None])

    class TinyVideoTransformer(BaseModel):  # type: ignore[misc]
        def __init__(self, args: Any, transformer: Any = None, **kwargs: Any) -> None:
            super().__init__(args, transformer=transformer, **kwargs)
            self.add_mixin("patch_embed", PatchEmbedding())
            self.add_mixin("pos_embed", SinusoidalPositions())
            self.add_mixin("final_layer", FinalLayer())

        def predict(self, sample: dict[str, Any]) -> Any:
            dtype = next(self.parameters()).dtype
            latents, text, time = (sample[key].to(dtype) for key in ("latents", "text", "time"))
            ids = torch.zeros(latents.shape[0], TEXT + PATCHES, dtype=torch.long)
            return self(ids, ids, None, latents=latents, text=text, time=time)[0]

    return TinyVideoTransformer


def to_patches(latents: Any) -> Any:
    """Return latents (batch, frames, channels, height, width) as tokens (batch, PATCHES, channels * PATCH²)."""
    from einops import rearrange

    return rearrange(latents, "b t c (h p) (w q) -> b (t h w) (c p q)", p=PATCH, q=PATCH)


def sample(seed: int = 1) -> dict[str, Any]:
    """Return one fixed sample: noisy latents, text and time embeddings, and the noise to predict."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    latents = draw(FRAMES, CHANNELS, SIDE, SIDE)
    noise = draw(FRAMES, CHANNELS, SIDE, SIDE)
    return {"latents": latents + noise, "noise": noise, "text": draw(TEXT, HIDDEN), "time": draw(HIDDEN)}


def batch(count: int = 2) -> dict[str, Any]:
    """Return `count` copies of the fixed sample, stacked."""
    import torch

    return {name: torch.stack([value] * count) for name, value in sample().items()}

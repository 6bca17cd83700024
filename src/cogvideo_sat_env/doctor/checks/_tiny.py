"""A tiny video diffusion transformer from SAT's own BaseModel and mixins, and what makes SAT run on a CPU."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

HIDDEN, HEADS, LAYERS = 64, 4, 2
TEXT, FRAMES, CHANNELS, SIDE, PATCH = 4, 2, 4, 8, 2  # tokens of text; latent frames, channels, height = width; patch
GRID = SIDE // PATCH
PATCHES = FRAMES * GRID**2
POSITIONS = ("sinusoidal", "rotary")  # CogVideoX-2B has the first, 5B the second
LORA_RANK = 4


def prepare_cpu() -> None:
    """Set what DeepSpeed and torch read when they are imported: a CPU job of one process. Call before any import."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the same on every machine; a GPU may be somebody else's
    os.environ["DS_ACCELERATOR"] = "cpu"
    prepare_alone()


def prepare_alone() -> None:
    """Set what SAT reads: a job of one process."""
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


def on(device: str) -> Any:
    """Return the context in which SAT trains on `device` ("cpu" or "cuda")."""
    return cpu_in_place_of_cuda() if device == "cpu" else nullcontext()


def arguments(folder: Path, device: str = "cpu", **changes: Any) -> argparse.Namespace:
    """Return the arguments of a SAT training run (SAT's own parsers and defaults) for this rank of the job."""
    import sat.arguments as parsers

    parser = argparse.ArgumentParser()
    for add in (
        parsers.add_model_config_args, parsers.add_training_args, parsers.add_evaluation_args, parsers.add_data_args
    ):  # fmt: skip
        add(parser)
    args = parser.parse_args([])
    local = int(os.environ["LOCAL_RANK"])
    values: dict[str, Any] = {
        "num_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "vocab_size": 16,
        "max_sequence_length": TEXT + PATCHES, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "mode": "finetune", "seed": 42, "device": "cpu" if device == "cpu" else local, "local_rank": local,
        "rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"]),
        "model_parallel_size": 1, "distributed_backend": "gloo" if device == "cpu" else "nccl",
        "cuda": device != "cpu", "deepspeed": False,
        "deepspeed_config": None, "zero_stage": 2, "bf16": True, "num_workers": 0, "summary_dir": str(folder),
        "experiment_name": "doctor", "iterable_dataset": False, "iterable_dataset_eval": False, "eval_interval": None,
    }  # fmt: skip
    for name, value in (values | changes).items():
        setattr(args, name, value)
    return args


def model_class(positions: str = POSITIONS[0], lora: bool = False) -> Any:
    """Return the model's class; a function, because SAT is imported only here.

    The shape of CogVideoX's dit_video_concat.py: text and patches of latents as one sequence, adaptive layer norm with
    its own modulation for each of the two, normalised queries and keys, `positions` as 2B or as 5B has them; 200,000
    parameters. With `lora` SAT's LoraMixin on top, and only its matrices are trained.
    """
    import torch
    from einops import rearrange, repeat
    from sat.model.base_model import BaseModel, non_conflict
    from sat.model.mixins import BaseMixin
    from sat.ops.layernorm import LayerNorm
    from sat.transformer_defaults import HOOKS_DEFAULT, attention_fn_default

    class PatchEmbedding(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Linear(CHANNELS * PATCH * PATCH, HIDDEN)
            self.text_proj = torch.nn.Linear(HIDDEN, HIDDEN)

        def word_embedding_forward(self, input_ids: Any, **kwargs: Any) -> Any:
            patches = rearrange(kwargs["images"], "b t c (h p) (w q) -> b (t h w) (c p q)", p=PATCH, q=PATCH)
            return torch.cat([self.text_proj(kwargs["encoder_outputs"]), self.proj(patches)], dim=1)

        def reinit(self, parent_model: Any = None) -> None:
            del self.transformer.word_embeddings

    def frequencies(width: int) -> Any:
        return 10000.0 ** (-torch.arange(0, width, 2).float() / width)

    def angles(width: int) -> list[Any]:
        """Return the angles of each patch's frame, row and column: of `width` values a quarter for the frame."""
        place = torch.cartesian_prod(*(torch.arange(count).float() for count in (FRAMES, GRID, GRID)))
        time, side = width // 4, width // 8 * 3
        return [place[:, [axis]] * frequencies(share) for axis, share in enumerate((time, side, side))]

    class SinusoidalPositions(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            waves = torch.cat([wave for angle in angles(HIDDEN) for wave in (angle.sin(), angle.cos())], dim=1)
            table = torch.cat([torch.zeros(TEXT, HIDDEN), waves])
            self.pos_embedding = torch.nn.Parameter(table[None], requires_grad=False)

        def position_embedding_forward(self, position_ids: Any, **kwargs: Any) -> Any:
            return self.pos_embedding

        def reinit(self, parent_model: Any = None) -> None:
            del self.transformer.position_embeddings

    class RotaryPositions(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            turned = repeat(torch.cat(angles(HIDDEN // HEADS), dim=1), "n d -> n (d r)", r=2)
            self.sin, self.cos = turned.sin(), turned.cos()  # plain attributes, as upstream's: never cast or saved

        def position_embedding_forward(self, position_ids: Any, **kwargs: Any) -> Any:
            return None

        def rotary(self, heads: Any) -> Any:
            text, patches = heads[:, :, :TEXT], heads[:, :, TEXT:]
            pairs = rearrange(patches, "... (d r) -> ... d r", r=2)
            first, second = pairs.unbind(dim=-1)
            half = rearrange(torch.stack((-second, first), dim=-1), "... d r -> ... (d r)")
            patches = patches * self.cos.to(patches) + half * self.sin.to(patches)
            return torch.cat([text, patches], dim=2)

        def attention_fn(self, query_layer: Any, key_layer: Any, value_layer: Any, mask: Any, *args: Any,
                         **kwargs: Any) -> Any:  # fmt: skip
            return HOOKS_DEFAULT["attention_fn"](
                self.rotary(query_layer), self.rotary(key_layer), value_layer, mask, *args, **kwargs
            )

    def modulate(x: Any, shift: Any, scale: Any) -> Any:
        return x * (1 + scale[:, None]) + shift[:, None]

    class AdaptiveLayers(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.adaLN_modulations = torch.nn.ModuleList(
                torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(HIDDEN, 12 * HIDDEN)) for _ in range(LAYERS)
            )
            norms = [LayerNorm(HIDDEN // HEADS, eps=1e-6) for _ in range(2 * LAYERS)]
            self.query_layernorm_list = torch.nn.ModuleList(norms[:LAYERS])
            self.key_layernorm_list = torch.nn.ModuleList(norms[LAYERS:])

        def layer_forward(self, hidden_states: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
            layer = self.transformer.layers[kwargs["layer_id"]]
            values = self.adaLN_modulations[kwargs["layer_id"]](kwargs["emb"]).chunk(12, dim=1)
            parts = (hidden_states[:, TEXT:], hidden_states[:, :TEXT])  # upstream's order of the twelve: image, text
            for norm, block, first in ((layer.input_layernorm, layer.attention, 0),
                                       (layer.post_attention_layernorm, layer.mlp, 3)):  # fmt: skip
                own = [values[start + first : start + first + 3] for start in (0, 6)]  # shift, scale, gate
                image, text = (modulate(norm(part), v[0], v[1]) for part, v in zip(parts, own, strict=True))
                joined = torch.cat([text, image], dim=1)
                done = block(joined, mask, **kwargs) if first == 0 else block(joined, **kwargs)
                changes = (done[:, TEXT:], done[:, :TEXT])
                parts = tuple(  # type: ignore[assignment]
                    part + v[2][:, None] * change for part, v, change in zip(parts, own, changes, strict=True)
                )
            return torch.cat([parts[1], parts[0]], dim=1)

        @non_conflict  # type: ignore[untyped-decorator,unused-ignore]
        def attention_fn(self, query_layer: Any, key_layer: Any, value_layer: Any, mask: Any, *args: Any,
                         old_impl: Any = attention_fn_default, **kwargs: Any) -> Any:  # fmt: skip
            query_layer = self.query_layernorm_list[kwargs["layer_id"]](query_layer)
            key_layer = self.key_layernorm_list[kwargs["layer_id"]](key_layer)
            return old_impl(query_layer, key_layer, value_layer, mask, *args, **kwargs)

    class FinalLayer(BaseMixin):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm_final = torch.nn.LayerNorm(HIDDEN, eps=1e-6)
            self.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(HIDDEN, 2 * HIDDEN))
            self.linear = torch.nn.Linear(HIDDEN, CHANNELS * PATCH * PATCH)

        def final_forward(self, logits: Any, **kwargs: Any) -> Any:
            shift, scale = self.adaLN_modulation(kwargs["emb"]).chunk(2, dim=1)
            patches = self.linear(modulate(self.norm_final(logits[:, TEXT:]), shift, scale))
            return rearrange(
                patches, "b (t h w) (c p q) -> b t c (h p) (w q)", t=FRAMES, h=GRID, w=GRID, p=PATCH, q=PATCH
            )

    class TinyVideoTransformer(BaseModel):  # type: ignore[misc]
        def __init__(self, args: Any, transformer: Any = None, **kwargs: Any) -> None:
            kwargs |= {
                "activation_func": torch.nn.GELU(approximate="tanh"), "layernorm": partial(LayerNorm, eps=1e-6)
            }  # fmt: skip
            super().__init__(args, transformer=transformer, **kwargs)
            self.time_embed = torch.nn.Sequential(
                torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.SiLU(), torch.nn.Linear(HIDDEN, HIDDEN)
            )
            table = {"sinusoidal": SinusoidalPositions, "rotary": RotaryPositions}
            self.add_mixin("pos_embed", table[positions](), reinit=True)
            self.add_mixin("patch_embed", PatchEmbedding(), reinit=True)
            self.add_mixin("adaln_layer", AdaptiveLayers())
            self.add_mixin("final_layer", FinalLayer())
            if lora:
                from sat.model.finetune.lora2 import LoraMixin

                self.add_mixin("lora", LoraMixin(LAYERS, LORA_RANK, lora_alpha=2 * LORA_RANK), reinit=True)

        def disable_untrainable_params(self) -> None:  # SAT calls it before it makes the optimizer
            for name, value in self.named_parameters():
                value.requires_grad_(value.requires_grad and (not lora or is_lora(name)))

        def predict(self, sample: dict[str, Any]) -> Any:
            weight = self.time_embed[0].weight
            latents, text = (sample[key].to(weight) for key in ("latents", "text"))
            angle = sample["time"].to(weight.device).float()[:, None] * frequencies(HIDDEN).to(weight.device)
            emb = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=1).to(weight.dtype))
            ones = torch.ones(1, 1).to(weight)
            return self(
                input_ids=ones, position_ids=ones, attention_mask=ones, images=latents, encoder_outputs=text, emb=emb
            )[0]

    return TinyVideoTransformer


def build(folder: Path, positions: str = POSITIONS[0], seed: int = 1, lora: bool = False, **changes: Any) -> Any:
    """Return a model outside of training, in fp32, whose weights depend on `seed` alone."""
    import torch

    args = arguments(folder, mode="inference", seed=seed, bf16=False, **changes)
    model = model_class(positions, lora)(args)  # starts SAT's one-process group the first time
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if name.endswith("pos_embedding") or is_lora(name):
            continue
        value.data.copy_(torch.randn(value.shape) * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model


def is_lora(name: str) -> bool:
    """True for the name of a weight that SAT's LoraMixin has added."""
    return ".matrix_A." in name or ".matrix_B." in name


def sample(seed: int = 1) -> dict[str, Any]:
    """Return one fixed sample: noisy latents, text embeddings, the time step, and the noise to predict."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    noise = draw(FRAMES, CHANNELS, SIDE, SIDE)
    latents = draw(FRAMES, CHANNELS, SIDE, SIDE) + noise
    return {"latents": latents, "noise": noise, "text": draw(TEXT, HIDDEN), "time": torch.tensor(100 * seed)}


def batch(count: int = 2) -> dict[str, Any]:
    """Return the first `count` fixed samples, stacked."""
    import torch

    samples = [sample(seed) for seed in range(1, count + 1)]
    return {name: torch.stack([item[name] for item in samples]) for name in samples[0]}


def loss_of(model: Any, found: dict[str, Any]) -> Any:
    """Return the mean squared error of the predicted noise, in fp32."""
    import torch

    predicted = model.predict(found)  # past DeepSpeed's engine, as CogVideo calls shared_step
    return torch.nn.functional.mse_loss(predicted.float(), found["noise"].to(predicted.device).float())

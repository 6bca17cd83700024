"""LoRA: matrices of SAT's LoraMixin in the layout of PEFT and diffusers, written, read back, and used there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import _tiny, _train
from ._probe import ProbeOutcome, ProbeRequest, failed, passed

_PARTS = ("to_q", "to_k", "to_v")  # SAT keeps three pairs of matrices for its one query_key_value layer


def safetensors_round_trip(request: ProbeRequest) -> ProbeOutcome:
    """Write, read, compare bit by bit, and compare the output of a model that got the weights from the file."""
    _tiny.prepare_cpu()
    import safetensors
    import torch
    from safetensors.torch import load_file, save_file

    path = request.workdir / "adapter_model.safetensors"
    first, second = (_tiny.build(request.workdir, lora=True).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(11)
    for _, value in _matrices(first):
        value.data.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    written = {name: value.detach().clone().contiguous() for name, value in _matrices(first)}
    save_file(written, str(path), metadata={"format": "pt"})
    read = load_file(str(path))
    if sorted(read) != sorted(written):
        return failed(f"{len(written)} tensors written, {len(read)} read; names differ")
    changed = [n for n in written if read[n].dtype != written[n].dtype or not torch.equal(read[n], written[n])]
    if changed:
        return failed(f"{len(changed)} of {len(written)} LoRA matrices changed in the file, e.g. {changed[0]}")
    with torch.no_grad():
        wanted, before = first.predict(_tiny.batch()), second.predict(_tiny.batch())
        for name, value in _matrices(second):
            value.data.copy_(read[name])
        after = second.predict(_tiny.batch())
    if torch.equal(wanted, before):
        return failed("SAT's LoraMixin has no effect on the model's output")
    if not torch.equal(wanted, after):
        return failed("the model with the LoRA weights from the file gives another output")
    return passed(
        f"{len(written)} LoRA matrices through safetensors {safetensors.__version__} in PEFT layout: bits and output"
        " equal",
        keys=sorted(written)[:2],
    )


def _matrices(model: Any) -> list[tuple[str, Any]]:
    """Return the LoRA matrices of all attention layers under their PEFT names."""
    found = _diffusers(dict(model.named_parameters()))
    return [(f"base_model.model.{name.removeprefix('transformer.')}", value) for name, value in found.items()]


def export(request: ProbeRequest) -> ProbeOutcome:
    """Export the LoRA that SAT trained as upstream's export tool does, load it into a CogVideoXPipeline, sample."""
    _tiny.prepare_cpu()
    record = _train.reference(request.shared, request.workdir, lora=True)
    import diffusers
    import peft
    import torch
    from diffusers.loaders.lora_base import LoraBaseMixin

    states = Path(record["checkpoint"], str(_train.STEPS), "mp_rank_00_model_states.pt")
    weights = torch.load(states, map_location="cpu", weights_only=False)["module"]
    exported = {name: value.contiguous() for name, value in _diffusers(weights).items()}
    if len(exported) != _tiny.LAYERS * len(_DIFFUSERS):
        return failed(
            f"{len(exported)} LoRA tensors in SAT's checkpoint; expected {_tiny.LAYERS * len(_DIFFUSERS)}: SAT calls"
            " them otherwise than upstream's export tool expects",
            names=sorted(name for name in weights if _tiny.is_lora(name))[:4],
        )  # fmt: skip
    folder = request.workdir / "lora"
    LoraBaseMixin.write_lora_layers(
        state_dict=exported, save_directory=str(folder), is_main_process=True, weight_name=None, save_function=None,
        safe_serialization=True,
    )  # fmt: skip
    pipeline = _pipeline(torch)
    before = _sampled(pipeline, torch)
    pipeline.load_lora_weights(str(folder), adapter_name="trained")
    pipeline.set_adapters(["trained"], [1.0])
    loaded = {
        f"transformer.{name.replace('.trained.weight', '.weight')}": value
        for name, value in pipeline.transformer.state_dict().items() if ".lora_" in name
    }  # fmt: skip
    wrong = [name for name, value in exported.items() if not torch.equal(loaded[name].float(), value.float())]
    if wrong:
        return failed(f"{len(wrong)} of {len(exported)} LoRA tensors differ in the pipeline, e.g. {wrong[0]}")
    after = _sampled(pipeline, torch)
    if not bool(torch.isfinite(after).all()) or torch.equal(before, after):
        return failed("the pipeline samples the same with the LoRA as without it, or values that are not finite")
    return passed(
        f"{len(exported)} tensors of the LoRA that SAT trained, exported and loaded into a tiny CogVideoXPipeline"
        f" (diffusers {diffusers.__version__}, peft {peft.__version__}): equal, and sampling differs with them"
    )


# SAT's names of a layer's matrices -> diffusers', as tools/export_sat_lora_weight.py maps them
_DIFFUSERS = {
    f"attention.{layer}.matrix_{side}.{index}": f"attn1.{name}.lora_{side}.weight"
    for layer, names in (("query_key_value", _PARTS), ("dense", ("to_out.0",)))
    for index, name in enumerate(names)
    for side in "AB"
}


def _diffusers(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the LoRA among SAT's weights under diffusers' names, below `transformer.` as SAT's are."""
    found = {}
    for name, value in weights.items():
        layer, _, rest = name.partition("transformer.layers.")[2].partition(".")
        if rest in _DIFFUSERS:
            found[f"transformer.transformer_blocks.{layer}.{_DIFFUSERS[rest]}"] = value
    return found


def _pipeline(torch: Any) -> Any:
    """Return a CogVideoXPipeline whose transformer has the tiny model's width; its texts are given as embeddings."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )  # fmt: skip

    torch.manual_seed(3)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=_tiny.HEADS, attention_head_dim=_tiny.HIDDEN // _tiny.HEADS, in_channels=4, out_channels=4,
        time_embed_dim=16, text_embed_dim=_tiny.HIDDEN, num_layers=_tiny.LAYERS, sample_width=4, sample_height=4,
        sample_frames=5, max_text_seq_length=8,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_height=32,
        sample_width=32,
    )  # fmt: skip
    pipeline = CogVideoXPipeline(None, None, vae, transformer, CogVideoXDDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _sampled(pipeline: Any, torch: Any) -> Any:
    generator = torch.Generator().manual_seed(7)
    text = torch.randn(1, 8, _tiny.HIDDEN, generator=generator)
    return pipeline(
        prompt_embeds=text, negative_prompt_embeds=torch.zeros_like(text), height=32, width=32, num_frames=5,
        num_inference_steps=2, generator=generator, output_type="latent",
    ).frames  # fmt: skip

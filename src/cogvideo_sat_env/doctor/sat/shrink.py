"""The user's own config, made small enough to run in a minute on a CPU: the same keys, fewer layers, small frames.

What decides whether the code runs keeps its meaning: patch, kinds of mixins, LoRA or not, image-to-video or not, even
or odd numbers of latent frames, precision where the device has it, ZeRO stage, mode, dataset class.
"""

from __future__ import annotations

import copy
from typing import Any

from cogvideo_sat_env.doctor.sat.rules import FRAMES, NETWORK, SPACE, Run

STEPS = 3
HEADS, HEAD, LAYERS, TEXT = 2, 64, 2, 32  # HEAD is what the rotary mixins are configured with
SIDE = 4  # patches in height; in width one more, so that the two can't be mixed up
VAE_CHANNELS = 32  # upstream's group norm has 32 groups
MOST_FRAMES = 13


def shrunk(run: Run, on_cpu: bool, folder: str) -> dict[str, Any]:
    """Return the merged config for a run of STEPS steps below `folder`, with the tiny T5 and VAE that are made there.

    `on_cpu`: what needs CUDA is replaced (FusedEmaAdam, fp16).
    """
    data = copy.deepcopy(run.config.data)
    network = _at(data, NETWORK)
    if network:
        _network(network, run)
    encoders = _at(data, "model.conditioner_config.params").get("emb_models")
    for model in encoders if isinstance(encoders, list) else []:
        params = model.get("params", {}) if isinstance(model, dict) else {}
        if "model_dir" in params:
            params["model_dir"] = f"{folder}/t5"
    vae = _at(data, "model.first_stage_config.params")
    if vae:
        vae["ckpt_path"] = f"{folder}/3d-vae.pt"
        for name in ("encoder_config", "decoder_config"):
            params = vae.get(name, {}).get("params", {})
            if params:
                params |= {"ch": VAE_CHANNELS, "num_res_blocks": 1}
    sampler = _at(data, "model.sampler_config.params")
    if sampler:
        sampler["num_steps"] = 2
        guider = _at(sampler, "guider_config.params")
        if "num_steps" in guider:
            guider["num_steps"] = 2
    if run.training:
        _training(data, on_cpu, folder)
    else:
        _sampling(data, run, folder)
    return data


def frames(wanted: int, rate: int, patch: int) -> int:
    """Return a small number of frames that fits VAE and patch, or fails to, just as `wanted` does."""
    latents = (wanted - 1) // rate + 1
    small = next(count for count in range(2, 64) if count % patch == latents % patch and count >= patch)
    return min(wanted, (small - 1) * rate + 1 + (wanted - 1) % rate)


def _network(network: dict[str, Any], run: Run) -> None:
    first, side = _patch(network)
    network |= {"num_layers": LAYERS, "num_attention_heads": HEADS, "hidden_size": HEADS * HEAD}
    network |= {"latent_height": SIDE * side, "latent_width": (SIDE + 1) * side}
    modules = network.get("modules") or {}
    positions = (modules.get("pos_embed_config") or {}).get("params") or {}
    if "hidden_size_head" in positions:
        positions["hidden_size_head"] = HEAD
    embed = (modules.get("patch_embed_config") or {}).get("params") or {}
    if "text_hidden_size" in embed:
        embed["text_hidden_size"] = TEXT
    rank = (modules.get("lora_config") or {}).get("params") or {}
    if "r" in rank:
        rank["r"] = min(4, rank["r"]) if isinstance(rank["r"], int) else rank["r"]
    rate, most = network.get("time_compressed_rate"), run.config.get(f"{NETWORK}.num_frames")
    if isinstance(rate, int) and isinstance(most, int):
        wanted = run.config.get(FRAMES)
        more = isinstance(wanted, int) and wanted > most  # keeps the fault of a position table that is too short
        network["num_frames"] = frames(most, rate, first) if more else max(MOST_FRAMES, frames(most, rate, first))


def _patch(network: dict[str, Any]) -> tuple[int, int]:
    """Return the frames of a patch and its height, whatever of it the config has."""
    patch = network.get("patch_size")
    side = patch[1] if isinstance(patch, list) and len(patch) == 3 else patch if isinstance(patch, int) else 2
    return (patch[0] if isinstance(patch, list) and patch else 1), side


def _training(data: dict[str, Any], on_cpu: bool, folder: str) -> None:
    network = _at(data, NETWORK)
    params = _at(data, "data.params")
    first, side = _patch(network)
    for name in ("video_size", "image_size"):
        if name in params:
            params[name] = [SIDE * side * SPACE, (SIDE + 1) * side * SPACE]
    for name in ("max_num_frames", "num_frames"):
        if isinstance(params.get(name), int):
            params[name] = frames(params[name], network.get("time_compressed_rate") or 4, first)
    args = data.setdefault("args", {})
    args |= {
        "train_iters": STEPS, "save_interval": STEPS, "eval_interval": STEPS, "eval_iters": 1, "log_interval": 1,
        "save": f"{folder}/saved", "summary_dir": folder, "num_workers": min(1, args.get("num_workers") or 0),
        "train_data": [f"{folder}/clips"], "valid_data": [f"{folder}/clips"], "wandb": False,
        "model_parallel_size": 1, "experiment_name": "examined",
    }  # fmt: skip
    args.pop("epochs", None)
    args.pop("load", None)
    args.pop("test_data", None)
    args.pop("train_data_weights", None)
    section = data.setdefault("deepspeed", {})
    section |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    section.pop("train_batch_size", None)
    if on_cpu:
        args |= {"distributed_backend": "gloo"}
        section |= {"bf16": {"enabled": True}, "fp16": {"enabled": False}}
        optimizer = section.get("optimizer") or {}
        rate = (optimizer.get("params") or {}).get("lr", 1e-4)
        section["optimizer"] = {"type": "AdamW", "params": {"lr": rate, "torch_adam": True}}


def _sampling(data: dict[str, Any], run: Run, folder: str) -> None:
    first, side = _patch(_at(data, NETWORK))
    args = data.setdefault("args", {})
    wanted = args.get("sampling_num_frames")
    if isinstance(wanted, int):
        args["sampling_num_frames"] = 4 + wanted % first  # upstream's decoder wants two after the first
    args |= {
        "load": f"{folder}/saved-for-sampling", "output_dir": f"{folder}/samples", "input_type": "txt",
        "input_file": f"{folder}/prompts.txt", "batch_size": 1, "model_parallel_size": 1,
        "sampling_image_size": [SIDE * side * SPACE, (SIDE + 1) * side * SPACE],
    }  # fmt: skip


def _at(data: dict[str, Any], dotted: str) -> dict[str, Any]:
    value: Any = data
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}

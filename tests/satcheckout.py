"""A small checkout with the names, the shapes and the faults of CogVideo's sat/, and YAMLs for it; our own text."""

from __future__ import annotations

import json
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import yaml

# what rules ask the code for, by file
CODE = {
    "dit_video_concat.py": (
        "spatial = reduce(mul, patch_size[1:])\n"
        "position = make(height_interpolation=self.height_interpolation)\n"
        'emb = ofs_embed(kwargs["ofs"])\n'
        "class DiffusionTransformer: ...\nclass Positions: ...\nclass Rotary3DPositions: ...\nclass Patches: ...\n"
    ),
    "data_video.py": "class SFTDataset: ...\nclass VideoDataset: ...\n",
    "diffusion_video.py": "class Engine: ...\n",
    "train_video.py": "import arguments\nfrom diffusion_video import Engine\nfrom sgm.util import make\n",
    "sample_video.py": "import arguments\n",
    "arguments.py": 'parser.add_argument("--base")\nparser.add_argument("--only-log-video-latents")\n',
    "sgm/__init__.py": "",
    "sgm/util.py": "def make(config): ...\n",
    "vae_modules/__init__.py": "",
    "vae_modules/autoencoder.py": "class Wrapper: ...\n",
}
SINGLE = '#!/bin/sh\nrun_cmd="python train_video.py --base configs/model.yaml configs/sft.yaml"\neval ${run_cmd}\necho DONE\n'
MULTI = SINGLE.replace("configs/model.yaml", "configs/test_model.yaml")


def model(**network: Any) -> dict[str, Any]:
    """Return the model section of a text-to-video LoRA run that nothing is wrong with."""
    params: dict[str, Any] = {
        "num_frames": 49, "time_compressed_rate": 4, "latent_width": 90, "latent_height": 60, "num_layers": 30,
        "patch_size": [1, 2, 2], "in_channels": 16, "out_channels": 16, "hidden_size": 1920, "num_attention_heads": 30,
        "modules": {
            "pos_embed_config": {"target": "dit_video_concat.Positions", "params": {"text_length": 226}},
            "patch_embed_config": {"target": "dit_video_concat.Patches", "params": {"text_hidden_size": 4096}},
            "lora_config": {"target": "sat.model.finetune.lora2.LoraMixin", "params": {"r": 128}},
        },
    }  # fmt: skip
    return {
        "model": {
            "not_trainable_prefixes": ["all"],
            "network_config": {"target": "dit_video_concat.DiffusionTransformer", "params": params | network},
            "conditioner_config": {"params": {"emb_models": [{"params": {"model_dir": "t5", "max_length": 226}}]}},
            "first_stage_config": {
                "target": "vae_modules.autoencoder.Wrapper",
                "params": {"ckpt_path": "vae/3d-vae.pt", "encoder_config": {"params": {"ch": 128}}},
            },
        }
    }


def training(**args: Any) -> dict[str, Any]:
    """Return the other sections of a training run that nothing is wrong with."""
    values: dict[str, Any] = {
        "mode": "finetune", "load": "transformer", "no_load_rng": True, "force_train": True, "train_iters": 1000,
        "save": "ckpts", "save_interval": 500, "split": "1,0,0", "eval_batch_size": 1,
        "eval_interval": 100, "train_data": ["clips"], "valid_data": ["clips"],
    }  # fmt: skip
    return {
        "args": {name: value for name, value in (values | args).items() if value is not None},
        "data": {
            "target": "data_video.SFTDataset",
            "params": {"video_size": [480, 720], "fps": 8, "max_num_frames": 49, "skip_frms_num": 3.0},
        },
        "deepspeed": {
            "train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 2}, "bf16": {"enabled": False},
            "fp16": {"enabled": True}, "optimizer": {"type": "sat.ops.FusedEmaAdam", "params": {"lr": 1e-3}},
        },
    }  # fmt: skip


def make_checkout(top: Path, git: bool = False) -> Path:
    """Make the checkout with whole weights, data and YAMLs; return its sat/."""
    folder = top / "sat"
    for name, text in CODE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "finetune_single_gpu.sh").write_text(SINGLE, encoding="utf-8")
    (folder / "finetune_multi_gpus.sh").write_text(MULTI, encoding="utf-8")
    write_yaml(folder / "configs" / "model.yaml", model())
    write_yaml(folder / "configs" / "sft.yaml", training())
    make_weights(folder)
    make_data(folder / "clips")
    if git:
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as published"]):
            subprocess.run(
                ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *command], cwd=top, check=True
            )
    return folder


def write_yaml(path: Path, data: dict[str, Any]) -> Path:
    """Write a config."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def make_weights(folder: Path) -> None:
    """Make checkpoint, VAE and T5 in the layout that is published, some bytes each."""
    (folder / "transformer" / "1").mkdir(parents=True)
    (folder / "transformer" / "latest").write_text("1\n", encoding="utf-8")
    save_torch(folder / "transformer" / "1" / "mp_rank_00_model_states.pt")
    (folder / "vae").mkdir()
    save_torch(folder / "vae" / "3d-vae.pt")
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").write_text(json.dumps({"d_model": 4096, "model_type": "t5"}), encoding="utf-8")
    (folder / "t5" / "spiece.model").write_bytes(b"\n\x0e\n\x05<pad>")
    save_safetensors(folder / "t5" / "model.safetensors")


def save_torch(path: Path) -> None:
    """Write what torch.save's archive is from outside: a zip with data.pkl."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(4096))


def save_safetensors(path: Path) -> None:
    """Write a safetensors file with one tensor of 1,024 bytes."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [256], "data_offsets": [0, 1024]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(1024))


def make_data(folder: Path, clips: int = 3) -> None:
    """Make a data folder: the clips are no videos, only their names and captions count here."""
    for number in range(1, clips + 1):
        for part, name, content in (
            ("videos", f"{number}.mp4", b"\0\0\0\x18ftypmp42"),
            ("labels", f"{number}.txt", b"a boat\n"),
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / name).write_bytes(content)

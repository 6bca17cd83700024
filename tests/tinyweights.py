"""Makes everything that docs/train.md starts from, tiny, in the real layout, so that its steps can be walked on a CPU.

    PREFIX/bin/python tests/tinyweights.py SAT OUT [--model configs/cogvideox_2b_lora.yaml]

SAT is the sat/ folder of a CogVideo checkout, OUT a new folder. In OUT are afterwards:
  transformer/, vae/3d-vae.pt, t5/     weights with random values, as the published ones lie
  clips/videos, clips/labels           two clips with captions
  model.yaml, sft.yaml, inference.yaml the checkout's own, with fewer layers, small frames and these paths
  diffusers/                           a CogVideoXPipeline of the same shape
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "src"))

import yaml  # noqa: E402

from cogvideo_sat_env.doctor.run_checks import PROBES  # noqa: E402
from cogvideo_sat_env.doctor.sat import checkout, configs, fix, rules, shrink  # noqa: E402

CAPTIONS = ("a boat on a river", "a red bird flies over the mountain")


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sat", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="configs/cogvideox_2b_lora.yaml")
    asked = parser.parse_args()
    out = asked.out.absolute()
    out.mkdir(parents=True)
    found = checkout.find(asked.sat)
    model, sft = (found.folder / name for name in (asked.model, "configs/sft.yaml"))
    run = rules.Run(found, configs.read([model, sft]))
    edits = [item for item in rules.judge(run) if item.edit is not None]
    for file in (model, sft):
        changed = [item.edit for item in edits if item.edit and item.edit.file == str(file)]
        (out / file.name).write_text(fix.corrected(file.read_text(encoding="utf-8"), changed), encoding="utf-8")
    run = rules.Run(found, configs.read([out / model.name, out / sft.name]))
    small = shrink.shrunk(run, True, str(out))
    small["model"]["first_stage_config"]["params"]["ckpt_path"] = str(out / "vae" / "3d-vae.pt")
    small["args"] |= {"load": str(out / "transformer"), "save": str(out / "ckpts"), "mode": "finetune"}
    small["args"] |= {"force_train": True, "no_load_rng": True, "experiment_name": "tiny"}
    (out / model.name).unlink()
    write(out / "model.yaml", {"model": small["model"]})
    write(out / "sft.yaml", {name: small[name] for name in ("args", "data", "deepspeed")})
    inference = yaml.safe_load((found.folder / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    size = small["data"]["params"]["video_size"]
    inference["args"] |= {
        "load": str(out / "ckpts"), "input_file": str(out / "prompts.txt"), "output_dir": str(out / "samples"),
        "sampling_image_size": size, "sampling_num_frames": 4,
    }  # fmt: skip
    write(out / "inference.yaml", inference)
    make_weights(found.folder, out, small)
    make_clips(out / "clips", size)
    make_pipeline(out / "diffusers", small)
    print(f"{out}: made")


def write(path: Path, data: dict) -> None:
    """Write a YAML."""
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def make_weights(sat: Path, out: Path, config: dict) -> None:
    """Make T5 and VAE as the doctor does, and a transformer's checkpoint as SAT saves one."""
    asked = {"captions": CAPTIONS, "prompt": CAPTIONS[0], "vae": config["model"]["first_stage_config"]}
    (out / "prepare.json").write_text(json.dumps(asked), encoding="utf-8")
    subprocess.run([sys.executable, str(PROBES / "_sat_prepare.py"), str(sat), str(out / "prepare.json")], check=True)
    (out / "prepare.json").unlink()
    (out / "vae").mkdir()
    (out / "3d-vae.pt").rename(out / "vae" / "3d-vae.pt")
    (out / "transformer" / "1").mkdir(parents=True)
    (out / "transformer" / "latest").write_text("1", encoding="utf-8")
    network = config["model"]["network_config"]
    network["params"]["modules"].pop("lora_config", None)  # the published weights are the base model's
    (out / "network.json").write_text(json.dumps(network), encoding="utf-8")
    code = (
        "import json, sys, torch; sys.path.insert(0, sys.argv[2]); import _sat_driver as driver\n"
        "sys.path.insert(0, sys.argv[1]); driver.without_cuda()\n"
        "from omegaconf import OmegaConf; from sgm.util import instantiate_from_config\n"
        "import argparse, os, sat.arguments as parsers\n"
        "args = argparse.Namespace(device='cpu', distributed_backend='gloo', world_size=1, rank=0, local_rank=0,\n"
        "    model_parallel_size=1, deepspeed=False, cuda=False, mode='inference', deepspeed_config=None)\n"
        "parsers.initialize_distributed(args); torch.manual_seed(1)\n"
        "model = instantiate_from_config(OmegaConf.load(sys.argv[3]))\n"
        "state = {'model.diffusion_model.' + name: value for name, value in model.state_dict().items()}\n"
        "torch.save({'module': state}, sys.argv[4])\n"
    )
    target = out / "transformer" / "1" / "mp_rank_00_model_states.pt"
    env = os.environ | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    subprocess.run(
        [sys.executable, "-c", code, str(sat), str(PROBES), str(out / "network.json"), str(target)], check=True, env=env
    )
    (out / "network.json").unlink()


def make_clips(folder: Path, size: list[int]) -> None:
    """Make two clips with captions."""
    sys.path.insert(0, str(PROBES))
    import _clips

    for part in ("videos", "labels"):
        (folder / part).mkdir(parents=True)
    for number, caption in enumerate(CAPTIONS, 1):
        _clips.write_clip(folder / "videos" / f"{number}.mp4", size[1], size[0])
        (folder / "labels" / f"{number}.txt").write_text(f"{caption}\n", encoding="utf-8")


def make_pipeline(folder: Path, config: dict) -> None:
    """Make a CogVideoXPipeline whose transformer has the shape of the config's."""
    import torch
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
    from transformers import T5EncoderModel, T5Tokenizer

    torch.manual_seed(2)
    network = config["model"]["network_config"]["params"]
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=network["num_attention_heads"],
        attention_head_dim=network["hidden_size"] // network["num_attention_heads"], num_layers=network["num_layers"],
        text_embed_dim=network["modules"]["patch_embed_config"]["params"]["text_hidden_size"],
        sample_width=network["latent_width"], sample_height=network["latent_height"], sample_frames=13,
        max_text_seq_length=226,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2)
    t5 = folder.parent / "t5"
    CogVideoXPipeline(
        T5Tokenizer.from_pretrained(t5), T5EncoderModel.from_pretrained(t5), vae, transformer, CogVideoXDDIMScheduler()
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()

"""Options and YAMLs, laid over each other as CogVideo does it: the YAML wins."""

import argparse
import os

import torch
from omegaconf import OmegaConf
from sat.arguments import (
    add_data_args,
    add_evaluation_args,
    add_training_args,
    initialize_distributed,
    set_random_seed,
)


def get_args(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", nargs="*")
    parser.add_argument("--model-parallel-size", type=int, default=1)
    parser.add_argument("--device", type=int, default=-1)
    parser.add_argument("--output-dir", default="samples")
    parser.add_argument("--input-file", default="input.txt")
    parser.add_argument("--input-type", default="cli")
    parser.add_argument("--sampling-num-frames", type=int, default=4)
    parser.add_argument("--sampling-image-size", type=list, default=[64, 80])
    parser.add_argument("--force-inference", action="store_true")
    for add in (add_training_args, add_evaluation_args, add_data_args):
        add(parser)
    args = parser.parse_args(words)
    config = OmegaConf.merge(*[OmegaConf.load(file) for file in args.base])
    for key, value in OmegaConf.to_object(config.pop("args", OmegaConf.create())).items():
        if hasattr(args, key):
            setattr(args, key, value)
    args.model_config = config.pop("model")
    args.deepspeed_config = OmegaConf.to_object(config.pop("deepspeed")) if "deepspeed" in config else None
    args.data_config = config.pop("data", None)
    args.rank, args.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if args.local_rank is None:
        args.local_rank = int(os.environ["LOCAL_RANK"])
    if args.device == -1:
        args.device = args.local_rank
    if args.local_rank != args.device and args.mode != "inference":
        raise ValueError("LOCAL_RANK (default 0) and args.device inconsistent.")
    args.cuda, args.num_layers = torch.cuda.is_available(), 2
    args.deepspeed = args.mode != "inference"
    if args.deepspeed:
        args.bf16 = args.deepspeed_config.get("bf16", {}).get("enabled", False)
        args.fp16 = args.deepspeed_config.get("fp16", {}).get("enabled", False)
        args.batch_size = args.deepspeed_config["train_micro_batch_size_per_gpu"]
        args.gradient_accumulation_steps = 1
        args.deepspeed_activation_checkpointing = False
        args.lr = args.deepspeed_config["optimizer"]["params"]["lr"]
    initialize_distributed(args)
    set_random_seed(args.seed)
    return args

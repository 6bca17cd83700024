"""Sampling from a checkpoint, as CogVideo starts it."""

import os
import sys

import imageio
import torch
from arguments import get_args
from diffusion_video import Engine
from sat.model.base_model import get_model
from sat.training.model_io import load_checkpoint

if __name__ == "__main__":
    args = get_args(sys.argv[1:])
    model = get_model(args, Engine)
    load_checkpoint(model, args)
    with open(args.input_file) as file:
        text = file.readline().strip()
    with torch.no_grad():
        video = model.sample(text, args.sampling_num_frames, args.sampling_image_size)[0]
    os.makedirs(args.output_dir, exist_ok=True)
    with imageio.get_writer(os.path.join(args.output_dir, "000000.mp4"), fps=8) as writer:
        for frame in (video.float().clamp(-1, 1) * 127.5 + 127.5).byte():
            writer.append_data(frame.permute(1, 2, 0).cpu().numpy())

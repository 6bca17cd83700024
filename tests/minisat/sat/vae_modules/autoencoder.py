"""Eight pixels and four frames a latent."""

import torch
from torch import nn


class Wrapper(nn.Module):
    def __init__(self, ckpt_path=None, encoder_config=None, **rest):
        super().__init__()
        self.inner = nn.Conv2d(3, 16, 8, stride=8)
        self.outer = nn.ConvTranspose2d(16, 3, 8, stride=8)
        if ckpt_path is not None:
            self.load_state_dict(torch.load(ckpt_path)["state_dict"])

    def encode(self, video):
        return torch.stack([self.inner(frame) for frame in video[:, ::4].unbind(1)], dim=1)

    def decode(self, latents):
        return torch.stack([self.outer(frame) for frame in latents.unbind(1)], dim=1)

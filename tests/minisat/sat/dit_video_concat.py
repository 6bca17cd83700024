"""A small network with the patches of CogVideo's: three numbers, and a value of its own for image-to-video."""

import torch
from einops import rearrange
from torch import nn


class Positions:
    pass


class Patches:
    pass


class DiffusionTransformer(nn.Module):
    def __init__(
        self, hidden_size, num_layers, patch_size, in_channels, out_channels, modules, ofs_embed_dim=None, **rest
    ):
        super().__init__()
        self.patch = patch_size
        self.volume = patch_size[0] * patch_size[1] * patch_size[2]
        self.proj = nn.Linear(in_channels * self.volume, hidden_size)
        self.text = nn.Linear(modules["patch_embed_config"]["params"]["text_hidden_size"], hidden_size)
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(num_layers))
        self.out = nn.Linear(hidden_size, out_channels * self.volume)
        self.ofs_embed = None if ofs_embed_dim is None else nn.Linear(1, hidden_size)

    def forward(self, latents, text, **kwargs):
        o, p, q = self.patch
        t, h, w = (size // step for size, step in zip(latents.shape[1:2] + latents.shape[3:], self.patch, strict=True))
        x = rearrange(latents, "b (t o) c (h p) (w q) -> b (t h w) (c o p q)", t=t, h=h, w=w, o=o, p=p, q=q)
        x = self.proj(x) + self.text(text).mean(1, keepdim=True)
        if self.ofs_embed is not None:
            x = x + self.ofs_embed(kwargs["ofs"][:, None].to(x))
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        x = self.out(x)
        return rearrange(x, "b (t h w) (c o p q) -> b (t o) c (h p) (w q)", t=t, h=h, w=w, o=o, p=p, q=q)

"""VAE, text encoder and network together."""

import torch
from sgm.util import instantiate_from_config
from torch import nn
from transformers import T5EncoderModel, T5Tokenizer


class Engine(nn.Module):
    def __init__(self, args, **kwargs):
        super().__init__()
        config = args.model_config
        self.network = instantiate_from_config(config.network_config)
        self.vae = instantiate_from_config(config.first_stage_config)
        params = config.conditioner_config.params.emb_models[0].params
        self.tokenizer = T5Tokenizer.from_pretrained(params.model_dir)
        self.t5 = T5EncoderModel.from_pretrained(params.model_dir)
        for part in (self.vae, self.t5):
            part.requires_grad_(False)
        self.length = params.max_length

    def text(self, captions):
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return self.t5(input_ids=tokens["input_ids"].to(self.t5.device)).last_hidden_state

    def shared_step(self, batch):
        weight = self.network.proj.weight
        latents = self.vae.encode(batch["mp4"].to(weight)).detach()
        noise = torch.randn_like(latents)
        guess = self.network(latents + noise, self.text(batch["txt"]).to(weight))
        loss = ((guess - noise).float() ** 2).mean()
        return loss, {"loss": loss.detach()}

    def sample(self, text, frames, size):
        weight = self.network.proj.weight
        latents = torch.randn(1, frames, 16, size[0] // 8, size[1] // 8).to(weight)
        return self.vae.decode(self.network(latents, self.text([text]).to(weight)))

"""Makes what a shrunk run of upstream's code needs: a tiny T5, a VAE of the shrunk shape, a prompt.

python _sat_prepare.py SAT CONFIG.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WIDTH = 32  # of the T5, as the shrunk config's text_hidden_size
_PROMPT = "a small red panda sleeps under the tree"


def t5(folder: Path, texts: Iterable[str]) -> tuple[Any, Any]:
    """Save a T5 encoder with random weights and, as spiece.model, a tokenizer made of `texts`; return both.

    `texts` have some hundred words at least.
    """
    import sentencepiece
    import torch
    import transformers

    folder.mkdir()
    corpus = folder.with_suffix(".txt")
    corpus.write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    config = transformers.T5Config(
        vocab_size=pieces.vocab_size(), d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    model = transformers.T5EncoderModel(config).eval()
    model.save_pretrained(folder)
    return pieces, model


def vae(config: dict[str, Any], path: Path) -> None:
    """Save the VAE of the config with random weights, as upstream's checkpoint has it."""
    import torch
    from omegaconf import OmegaConf
    from sgm.util import instantiate_from_config

    own = OmegaConf.create(config)
    own.params.pop("ckpt_path", None)
    torch.manual_seed(6)
    torch.save({"state_dict": instantiate_from_config(own).state_dict()}, path)


def main() -> None:
    """Make all of it below the folder of the config."""
    sys.path.pop(0)  # the folder of this file
    sat, request = sys.argv[1:]
    sys.path.insert(0, sat)
    sys.dont_write_bytecode = True
    folder = Path(request).parent
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    t5(folder / "t5", [*asked["captions"], _PROMPT] * 40)
    if asked.get("vae"):
        vae(asked["vae"], folder / "3d-vae.pt")
    (folder / "prompts.txt").write_text(f"{asked['prompt']}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

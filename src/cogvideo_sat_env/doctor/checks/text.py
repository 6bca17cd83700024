"""Text: a tiny T5 with a sentencepiece tokenizer trained on the spot, loaded as CogVideo's FrozenT5Embedder does."""

from __future__ import annotations

import logging
from pathlib import Path

from ._probe import ProbeOutcome, ProbeRequest, failed, passed

_WORDS = (
    "a", "red", "green", "small", "large", "panda", "bird", "river", "boat", "mountain", "plays", "flies", "sleeps",
    "under", "over", "near", "the", "tree",
)  # fmt: skip
_LENGTH = 20
_REMEDY = "mamba install 'transformers>=4.46.2' 'sentencepiece>=0.2.0'"


def t5(request: ProbeRequest) -> ProbeOutcome:
    """Tokenise with only spiece.model in the folder, encode, compare with sentencepiece and the saved weights."""
    import sentencepiece
    import torch
    import transformers

    folder = request.workdir / "t5"
    folder.mkdir()
    _train_tokenizer(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    config = transformers.T5Config(
        vocab_size=pieces.vocab_size(), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    original = transformers.T5EncoderModel(config).eval()
    original.save_pretrained(folder)
    logging.disable(logging.WARNING)
    try:
        tokenizer = transformers.T5Tokenizer.from_pretrained(str(folder))
        model = transformers.T5EncoderModel.from_pretrained(str(folder)).eval()
    except Exception as error:  # transformers asks for tiktoken, protobuf or others when sentencepiece is missing
        return failed(f"T5 can't be loaded from a folder with only spiece.model: {error}", _REMEDY)
    text = "a small red panda sleeps under the tree"
    ids = tokenizer(
        text, truncation=True, max_length=_LENGTH, return_length=True, return_overflowing_tokens=False,
        padding="max_length", return_tensors="pt",
    )["input_ids"]  # fmt: skip
    expected = [*pieces.encode(text), 1]
    expected += [0] * (_LENGTH - len(expected))
    if ids[0].tolist() != expected:
        return failed(f"T5Tokenizer gives {ids[0].tolist()}, sentencepiece {expected}", _REMEDY)
    saved, loaded = original.state_dict(), model.state_dict()
    changed = [name for name in saved if not torch.equal(saved[name].float(), loaded[name].float())]
    if changed:
        return failed(f"{len(changed)} of {len(saved)} T5 weights changed on loading, e.g. {changed[0]}", _REMEDY)
    with torch.no_grad():
        hidden = model(input_ids=ids).last_hidden_state
    if tuple(hidden.shape) != (1, _LENGTH, 32) or not bool(torch.isfinite(hidden).all()):
        return failed(f"the T5 encoder gives {tuple(hidden.shape)} with values that are not finite")
    return passed(
        f"transformers {transformers.__version__} with sentencepiece {sentencepiece.__version__}: tokens, weights and"
        " output of a tiny T5 are right"
    )


def _train_tokenizer(folder: Path) -> None:
    import sentencepiece

    lines = [" ".join(_WORDS[(start + step * 5) % len(_WORDS)] for step in range(9)) for start in range(200)]
    corpus = folder.parent / "corpus.txt"
    corpus.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.vocab").unlink()

"""Text: a tiny T5 with a sentencepiece tokenizer trained on the spot, loaded as CogVideo's FrozenT5Embedder does."""

from __future__ import annotations

import logging

from ._probe import ProbeOutcome, ProbeRequest, failed, passed
from ._sat_prepare import WIDTH
from ._sat_prepare import t5 as save_t5

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
    pieces, original = save_t5(
        folder, (" ".join(_WORDS[(start + step * 5) % len(_WORDS)] for step in range(9)) for start in range(200))
    )
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
    if tuple(hidden.shape) != (1, _LENGTH, WIDTH) or not bool(torch.isfinite(hidden).all()):
        return failed(f"the T5 encoder gives {tuple(hidden.shape)} with values that are not finite")
    return passed(
        f"transformers {transformers.__version__} with sentencepiece {sentencepiece.__version__}: tokens, weights and"
        " output of a tiny T5 are right"
    )

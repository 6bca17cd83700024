"""LoRA: matrices of SAT's LoraMixin written with safetensors in PEFT's key layout, and read back."""

from __future__ import annotations

from typing import Any

from . import _tiny
from ._probe import ProbeOutcome, ProbeRequest, failed, passed

_PARTS = ("to_q", "to_k", "to_v")  # SAT keeps three pairs of matrices for its one query_key_value layer


def safetensors_round_trip(request: ProbeRequest) -> ProbeOutcome:
    """Write, read, compare bit by bit, and compare the output of a model that got the weights from the file."""
    _tiny.prepare_cpu()
    import safetensors
    import torch
    from safetensors.torch import load_file, save_file

    path = request.workdir / "adapter_model.safetensors"
    first, second = (_tiny.build(request.workdir, lora=True).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(11)
    for _, value in _matrices(first):
        value.data.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    written = {name: value.detach().clone().contiguous() for name, value in _matrices(first)}
    save_file(written, str(path), metadata={"format": "pt"})
    read = load_file(str(path))
    if sorted(read) != sorted(written):
        return failed(f"{len(written)} tensors written, {len(read)} read; names differ")
    changed = [n for n in written if read[n].dtype != written[n].dtype or not torch.equal(read[n], written[n])]
    if changed:
        return failed(f"{len(changed)} of {len(written)} LoRA matrices changed in the file, e.g. {changed[0]}")
    with torch.no_grad():
        wanted, before = first.predict(_tiny.batch()), second.predict(_tiny.batch())
        for name, value in _matrices(second):
            value.data.copy_(read[name])
        after = second.predict(_tiny.batch())
    if torch.equal(wanted, before):
        return failed("SAT's LoraMixin has no effect on the model's output")
    if not torch.equal(wanted, after):
        return failed("the model with the LoRA weights from the file gives another output")
    return passed(
        f"{len(written)} LoRA matrices through safetensors {safetensors.__version__} in PEFT layout: bits and output"
        " equal",
        keys=sorted(written)[:2],
    )


def _matrices(model: Any) -> list[tuple[str, Any]]:
    """Return the LoRA matrices of all attention layers under their PEFT names."""
    found = []
    for index, layer in enumerate(model.transformer.layers):
        base = f"base_model.model.transformer_blocks.{index}.attn1"
        attention = layer.attention
        for name, part in [*((n, attention.query_key_value) for n in _PARTS), ("to_out.0", attention.dense)]:
            place = _PARTS.index(name) if name in _PARTS else 0
            found.append((f"{base}.{name}.lora_A.weight", part.matrix_A[place]))
            found.append((f"{base}.{name}.lora_B.weight", part.matrix_B[place]))
    return found

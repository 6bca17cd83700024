"""Model: forward, backward, LoRA and merging of the tiny transformer from SAT's mixins; a causal VAE block."""

from __future__ import annotations

import math
from typing import Any

from . import _tiny
from ._probe import ProbeOutcome, ProbeRequest, failed, one_line, passed, warning

# Largest relative distance of the output in half precision from that in fp32: bf16 has 8 bits, fp16 has 11, and the
# error grows over the layers. Measured on the CPU: 0.012 and 0.0014.
_NEAR = {"bf16": 0.1, "fp16": 0.02}


def transformer(request: ProbeRequest) -> ProbeOutcome:
    """On the CPU: both kinds of positions, fp32, bf16 and fp16; gradients; the same twice for a seed."""
    _tiny.prepare_cpu()
    return _transformer(request, "cpu")


def transformer_gpu(request: ProbeRequest) -> ProbeOutcome:
    """On the first GPU: the same as model.transformer, and near what the CPU computes."""
    _tiny.prepare_alone()
    return _transformer(request, "cuda")


def _transformer(request: ProbeRequest, device: str) -> ProbeOutcome:
    import torch

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    lacking: dict[str, str] = {}
    distances: dict[str, float] = {}
    # before compute capability 8.0 torch emulates some of it, and cuBLAS refuses the rest
    if device != "cpu" and not torch.cuda.is_bf16_supported(including_emulation=False):
        lacking["bf16"] = f"{torch.cuda.get_device_name()} (compute capability below 8.0) has no bf16"
    for positions in _tiny.POSITIONS:
        model = _tiny.build(request.workdir, positions)
        expected = _output(model)
        if not bool(torch.equal(expected, _output(_tiny.build(request.workdir, positions)))):
            return failed(f"{positions} positions: two models of one seed give different output")
        if device != "cpu":
            model = model.to(device)
            distances[f"{positions} fp32"] = _distance(_output(model), expected)
            if not distances[f"{positions} fp32"] < _NEAR["fp16"]:
                return failed(f"{positions} positions: the GPU's output is not the CPU's", _GPU, distances=distances)
        problem = _step(model, positions, "fp32") or _sees_positions(model, positions)
        if problem is not None:
            return problem
        for kind, dtype in kinds.items():
            if kind in lacking:
                continue
            try:
                half = _output(model.to(dtype))
            except (RuntimeError, NotImplementedError) as error:  # torch: "... not implemented for 'Half'"
                if "not implemented for" not in str(error):
                    raise
                lacking[kind] = one_line(error)
                continue
            finally:
                model.to(torch.float32)
            distances[f"{positions} {kind}"] = _distance(half, expected)
            if not distances[f"{positions} {kind}"] < _NEAR[kind]:  # not a number counts as far
                return failed(
                    f"{positions} positions: {kind} is {distances[f'{positions} {kind}']:.3f} away from fp32 (relative;"
                    f" at most {_NEAR[kind]} expected)",
                    distances=distances,
                )
            problem = _step(model.to(dtype), positions, kind)
            model = _tiny.build(request.workdir, positions).to(device)  # casting back has lost bits
            if problem is not None:
                return problem
    return judge(device, lacking, distances)


def judge(device: str, lacking: dict[str, str], distances: dict[str, float]) -> ProbeOutcome:
    """Return the outcome when all that the device has went well. `lacking`: the reason by kind ("bf16", "fp16")."""
    details = {"distances": distances, "lacking": lacking}
    where = "the GPU" if device != "cpu" else "the CPU"
    kinds = [kind for kind in _NEAR if kind not in lacking]
    done = (
        f"a tiny CogVideoX-shaped transformer on {where}: forward and backward in {' and '.join(['fp32', *kinds])},"
        " sinusoidal and rotary positions, the same for a seed"
    )
    if "bf16" not in lacking:
        return passed(done, **details)
    if device == "cpu":  # where DeepSpeed takes no fp16
        return failed(f"{lacking['bf16']}; train in fp32", "bf16: {enabled: false}" + _TRAINING, **details)
    if not kinds:
        return failed(f"{lacking['bf16']}, and no fp16: {lacking['fp16']}", "train on another GPU", **details)
    return warning(f"{lacking['bf16']}; {done}", "fp16: {enabled: true}, bf16: {enabled: false}" + _TRAINING, **details)


def lora(request: ProbeRequest) -> ProbeOutcome:
    """LoRA changes nothing at first, alone gets gradients, learns, and can be merged into the weights."""
    _tiny.prepare_cpu()
    import torch

    plain, model = _tiny.build(request.workdir), _tiny.build(request.workdir, lora=True)
    before = _output(plain)
    if not torch.equal(_output(model), before):
        return failed("SAT's LoraMixin changes the output before a step was taken: its B matrices must start as zeros")
    matrices = [value for name, value in model.named_parameters() if ".matrix_" in name]
    if len(matrices) != _tiny.LAYERS * 2 * (3 + 1):  # A and B for query, key, value and the output
        return failed(f"{len(matrices)} LoRA matrices, expected {_tiny.LAYERS * 8}: the mixin doesn't reach all layers")
    model.requires_grad_(False)
    for value in matrices:
        value.requires_grad_(True)
    optimizer = torch.optim.AdamW(matrices, lr=0.02)
    losses = []
    for _ in range(8):
        loss = _tiny.loss_of(model, _tiny.batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    summary = f"{losses[0]:.4f} to {losses[-1]:.4f}"
    if not math.isfinite(losses[-1]) or losses[-1] >= losses[0]:
        return failed(f"eight steps of LoRA don't make the loss smaller: {summary}", losses=losses)
    learned = _output(model)
    model.get_mixin("lora").merge_lora()
    apart = _distance(_output(model), learned)
    if not apart < 1e-4:
        return failed(f"after merging, the output is {apart:.2g} away from that with LoRA (relative)", losses=losses)
    return passed(f"{len(matrices)} LoRA matrices learn (loss {summary}) and merge into the weights", losses=losses)


def vae(request: ProbeRequest) -> ProbeOutcome:
    """A block of a causal 3D VAE as CogVideoX's: earlier frames never see later ones; fp32 and bf16, backward."""
    _tiny.prepare_cpu()
    import torch

    torch.manual_seed(3)
    block = _vae_block()
    clip = torch.randn(1, 3, 5, 16, 24)
    changed = clip.clone()
    changed[:, :, 3:] += 1.0
    with torch.no_grad():
        whole, other = block(clip), block(changed)
    if tuple(whole.shape) != (1, 8, 5, 8, 12) or not bool(torch.isfinite(whole).all()):
        return failed(f"the VAE block gives {tuple(whole.shape)}, expected (1, 8, 5, 8, 12), all finite")
    if _distance(other[:, :, :3], whole[:, :, :3]) > 1e-5 or torch.equal(other[:, :, 3:], whole[:, :, 3:]):
        return failed("the VAE block is not causal here: frames depend on later ones, or not on their own")
    with torch.no_grad():
        half = block.to(torch.bfloat16)(clip.bfloat16())
    apart = _distance(half, whole)
    if not apart < _NEAR["bf16"]:
        return failed(f"conv3d and group norm in bf16 are {apart:.3f} away from fp32 (relative)")
    block.float().train()
    block(clip).square().mean().backward()
    bad = [name for name, value in block.named_parameters() if not _has_gradient(value)]
    if bad:
        return failed(f"no finite gradient for {', '.join(bad[:3])} of the VAE block")
    if not _checks_arguments():
        return failed(
            "beartype lets a text pass where a number is declared: argument checks of the VAE are off",
            "mamba install 'beartype>=0.19.0'",
        )
    return passed(f"a causal 3D VAE block: shapes, causality, backward; bf16 within {apart:.3f} of fp32")


def _output(model: Any) -> Any:
    """Return what the model predicts for the fixed batch, as fp32 on the CPU."""
    import torch

    with torch.no_grad():
        return model.predict(_tiny.batch()).float().cpu()


def _distance(found: Any, expected: Any) -> float:
    """Return the relative distance of two tensors; not a number when either has one."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def _step(model: Any, positions: str, kind: str) -> ProbeOutcome | None:
    """Go forward and backward; return what is wrong with loss or gradients, or None."""
    model.zero_grad(set_to_none=True)
    loss = _tiny.loss_of(model, _tiny.batch())
    loss.backward()
    where = f"{positions} positions in {kind}"
    if not math.isfinite(float(loss.detach())):
        return failed(f"{where}: the loss is {float(loss.detach())}")
    # SAT's table of learnt positions is there with rotary positions too, and unused
    used = [(n, v) for n, v in model.named_parameters() if v.requires_grad and n != _UNUSED]
    bad = [name for name, value in used if not _has_gradient(value)]
    return failed(f"{where}: no finite gradient for {', '.join(bad[:3])}", without=bad) if bad else None


_UNUSED = "transformer.position_embeddings.weight"
_TRAINING = " in the deepspeed section of the training configuration"
_GPU = "have the GPU examined: nvidia-smi -q -d ECC,PAGE_RETIREMENT"


def _has_gradient(value: Any) -> bool:
    return value.grad is not None and bool(value.grad.isfinite().all())


def _sees_positions(model: Any, positions: str) -> ProbeOutcome | None:
    """Exchange the two frames: without positions, the frames of the output would only be exchanged too."""
    import torch

    found = _tiny.batch()
    with torch.no_grad():
        straight = model.predict(found)
        turned = model.predict(found | {"latents": found["latents"].flip(1)}).flip(1)
    if _distance(turned, straight) < 1e-4:
        return failed(f"{positions} positions have no effect: SAT doesn't call the mixin's hook")
    return None


def _vae_block() -> Any:
    import torch
    from beartype import beartype
    from torch import nn
    from torch.nn.functional import pad

    class CausalConv3d(nn.Module):  # type: ignore[misc,unused-ignore]
        @beartype  # upstream checks its VAE's arguments at run time with it
        def __init__(self, chan_in: int, chan_out: int, kernel_size: int) -> None:
            super().__init__()
            self.before = kernel_size - 1
            self.conv = nn.Conv3d(chan_in, chan_out, kernel_size, padding=(0, kernel_size // 2, kernel_size // 2))

        def forward(self, x: Any) -> Any:
            return self.conv(torch.cat([x[:, :, :1]] * self.before + [x], dim=2))  # the first frame, repeated

    class Block(nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = CausalConv3d(3, 8, 3), CausalConv3d(8, 8, 3)
            self.norm = nn.GroupNorm(4, 8, eps=1e-6)
            self.down = nn.Conv2d(8, 8, 3, stride=2)

        def forward(self, x: Any) -> Any:
            x = self.first(x)
            batch, _, frames, _, _ = x.shape
            flat = x.transpose(1, 2).flatten(0, 1)  # frame by frame: statistics over time would not be causal
            x = self.norm(flat).unflatten(0, (batch, frames)).transpose(1, 2)
            x = self.second(nn.functional.silu(x))
            flat = pad(x.transpose(1, 2).flatten(0, 1), (0, 1, 0, 1))
            return self.down(flat).unflatten(0, (batch, frames)).transpose(1, 2)

    return Block()


def _checks_arguments() -> bool:
    from beartype import beartype
    from beartype.roar import BeartypeCallHintViolation

    @beartype
    def same(number: int) -> int:
        return number

    try:
        same("3")  # type: ignore[arg-type]
    except BeartypeCallHintViolation:
        return True
    return False

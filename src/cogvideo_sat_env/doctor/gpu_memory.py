"""How much GPU memory a run needs: a calculator, not a measurement; it answers with a range.

Per GPU, in bytes, with b bytes a value of the training precision, P weights of the transformer, T trained ones (all, or
the LoRA matrices), g GPUs, ZeRO stage z, batch B and n tokens a clip:

    weights      b·(P + LoRA)            /g when z = 3
    encoders     b·(T5 + VAE)            low: /g when z = 3
    gradients    b·T                     low: /g when z >= 2 (high: all live before they are reduced)
    optimizer    16·T                    fp32 weight, two moments, EMA (FusedEmaAdam); 12·T in fp32; /g when z >= 1
    buckets      low: none; high: 3·b·min(bucket, T), two for reduction that overlaps, one for gathering
    activations  the larger of
                   transformer: B·n·hidden·(b·layers + layer·b/2), with activation checkpointing
                   VAE:         b·maps·channels·frames·height·width; low: one clip at a time, high: B at once
    context      CUDA context and libraries' workspaces

and the sum times the allocator's fragmentation. The numbers and their sources are in data/plan.yml. Upstream's
published figures lie inside the ranges; for the same setup they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA

MODELS = ("2b", "5b")
METHODS = ("lora", "full")
DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4}
FITS, MAYBE, NO = "fits", "may fit", "does not fit"
_GIB = 2**30


@dataclass(frozen=True)
class TrainingSetup:
    """What is to be trained, and on how many GPUs; frames, height and width in pixels of the clips."""

    model: str = "2b"
    method: str = "lora"
    gpus: int = 1
    zero: int = 2
    frames: int = 49
    height: int = 480
    width: int = 720
    batch: int = 1
    dtype: str | None = None  # None: the model's own

    def check(self) -> None:
        """Raise InputError for a setup that nobody can train."""
        for value, choices, what in (
            (self.model, MODELS, "model"), (self.method, METHODS, "method"), (self.zero, (0, 1, 2, 3), "ZeRO stage"),
            (self.dtype or "bf16", tuple(DTYPES), "dtype"),
        ):  # fmt: skip
            if value not in choices:
                raise InputError(f"{what} {value!r}; expected one of {', '.join(map(str, choices))}", satenv("plan -h"))
        for number, what in ((self.gpus, "number of GPUs"), (self.batch, "batch size")):
            if number < 1:
                raise InputError(f"{what} {number}; expected 1 or more", satenv("plan -h"))
        if self.frames < 1 or self.frames % 4 != 1:
            raise InputError(
                f"{self.frames} frames; expected a multiple of 4 and 1 more, e.g. 49: the VAE joins frames by four",
                f"--frames {max(1, self.frames // 4 * 4 + 1)}",
            )
        for size, what in ((self.height, "height"), (self.width, "width")):
            if size < 16 or size % 16:
                raise InputError(
                    f"{what} {size}; expected a multiple of 16: the VAE shrinks by 8, a patch has 2 latents",
                    f"--{what} {max(16, size // 16 * 16)}",
                )


@dataclass(frozen=True)
class Range:
    """Bytes, at least and at most."""

    low: float
    high: float

    def to_json(self) -> dict[str, int]:
        """Return both as whole bytes."""
        return {"low": round(self.low), "high": round(self.high)}

    def __str__(self) -> str:
        return f"{self.low / _GIB:.1f} to {self.high / _GIB:.1f} GiB"


@dataclass(frozen=True)
class MemoryEstimate:
    """The answer: weights by kind, tokens of a clip, bytes per GPU by part, their sum."""

    setup: TrainingSetup
    dtype: str
    transformer: int
    trained: int
    tokens: int
    parts: dict[str, Range]
    total: Range
    published: float | None  # GB per GPU that upstream published for this very setup

    def verdict(self, memory: float) -> str:
        """Return FITS, MAYBE or NO for a GPU with `memory` usable bytes."""
        return FITS if self.total.high <= memory else MAYBE if self.total.low <= memory else NO

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; sizes in bytes."""
        return {
            **vars(self.setup), "dtype": self.dtype,
            "parameters": {"transformer": self.transformer, "trained": self.trained}, "tokens": self.tokens,
            "per_gpu": {name: part.to_json() for name, part in self.parts.items()} | {"total": self.total.to_json()},
            "published_gb": self.published,
            "verdicts": [
                {"gpu": name, "gib": gib, "verdict": self.verdict(usable)} for name, gib, usable in common_gpus()
            ],
        }  # fmt: skip

    def to_text(self) -> str:
        """Return the plan for people, at most 80 columns wide."""
        setup, numbers = self.setup, _numbers()
        name = numbers["models"][setup.model]["name"]
        method = "full fine-tuning" if setup.method == "full" else f"LoRA, rank {numbers['transformer']['lora_rank']}"
        gpus = f"{setup.gpus} GPU{'s' if setup.gpus > 1 else ''}"
        lines = [
            f"{name}, {method}, {self.dtype}, {gpus}, ZeRO-{setup.zero}, batch {setup.batch} a GPU",
            f"clips of {setup.frames} frames, {setup.height}x{setup.width}: {self.tokens:,} tokens",
            f"{self.transformer / 1e9:.2f} billion weights in the transformer, {_millions(self.trained)} trained", "",
            "per GPU",
            *(f"  {part:<12} {size}" for part, size in self.parts.items()),
            f"  {'together':<12} {self.total}", "",
            *(f"  {gib:>4} GiB  {self.verdict(usable):<13} {gpu}" for gpu, gib, usable in common_gpus()), "",
        ]  # fmt: skip
        if self.published is not None:
            lines.append(f"Upstream published {self.published:g} GB a GPU for this model, method and batch on 8 A100.")
        lines.append("Reckoned, not measured: docs/plan.md has the formula and what is left out.")
        return "\n".join(lines) + "\n"


def estimate(setup: TrainingSetup) -> MemoryEstimate:
    """Return how much memory `setup` needs. Raises InputError for a setup that nobody can train."""
    setup.check()
    numbers = _numbers()
    model, training, vae = numbers["models"][setup.model], numbers["training"], numbers["vae"]
    dtype = setup.dtype or model["dtype"]
    b, gpus, zero = DTYPES[dtype], setup.gpus, setup.zero
    weights, lora = transformer_weights(model), lora_weights(model)
    trained = weights if setup.method == "full" else lora
    held = weights + (lora if setup.method == "lora" else 0)
    latents = (setup.frames - 1) // vae["time"] + 1
    patch = vae["space"] * numbers["transformer"]["patch"]
    tokens = numbers["transformer"]["text_tokens"] + latents * (setup.height // patch) * (setup.width // patch)

    states = training["states"] - (1 if dtype == "fp32" else 0)  # in fp32 there is no second copy of the weight
    encoders = [b * (t5_weights() + own) for own in vae["parameters"]]
    picture = b * vae["channels"] * setup.frames * setup.height * setup.width
    layer = [
        setup.batch * tokens * model["hidden"] * (b * model["layers"] + kept * b / 2) for kept in training["layer"]
    ]
    split = gpus if zero == 3 else 1
    parts = {
        "weights": Range(b * held / split, b * held / split),
        "encoders": Range(encoders[0] / split, encoders[1]),
        "gradients": Range(b * trained / (gpus if zero >= 2 else 1), b * trained),
        "optimizer": Range(*[4 * states * trained / (gpus if zero >= 1 else 1)] * 2),
        "buckets": Range(0, 3 * b * min(training["bucket"], trained)),
        "activations": Range(
            max(layer[0], vae["maps"][0] * picture), max(layer[1], vae["maps"][1] * picture * setup.batch)
        ),
        "context": Range(*training["context"]),
    }
    low, high = training["fragmentation"]
    total = Range(low * sum(part.low for part in parts.values()), high * sum(part.high for part in parts.values()))
    same = (setup.gpus, setup.zero, setup.frames, setup.height, setup.width, dtype) == (
        8, 2, 49, 480, 720, model["dtype"]
    )  # fmt: skip
    published = model["published"].get(setup.method, {}).get(setup.batch) if same else None
    return MemoryEstimate(setup, dtype, weights, trained, tokens, parts, total, published)


def transformer_weights(model: dict[str, Any]) -> int:
    """Return the number of weights of CogVideoX's transformer, from its shape (dit_video_concat.py)."""
    shape = _numbers()["transformer"]
    h, time = model["hidden"], shape["time_embed"]
    attention = 3 * h * h + 3 * h + h * h + h
    mlp = 4 * h * h + 4 * h + 4 * h * h + h
    norms = 2 * 2 * h + 2 * 2 * (h // model["heads"])  # of the layer, and of queries and keys
    modulation = time * 12 * h + 12 * h
    patch = shape["latent_channels"] * shape["patch"] ** 2
    ends = (patch + 1) * h + (shape["text_hidden"] + 1) * h  # patches and text in
    ends += (h + 1) * time + (time + 1) * time  # the time step
    ends += 2 * 2 * h + (time + 1) * 2 * h + (h + 1) * patch  # the last norms, their modulation, patches out
    return int(model["layers"] * (attention + mlp + norms + modulation) + ends)


def lora_weights(model: dict[str, Any]) -> int:
    """Return the number of weights of SAT's LoraMixin: pairs for query, key, value and the output of each layer."""
    return int(model["layers"] * 4 * 2 * _numbers()["transformer"]["lora_rank"] * model["hidden"])


def t5_weights() -> int:
    """Return the number of weights of the T5 encoder: attention, gated MLP, embeddings."""
    shape = _numbers()["t5"]
    hidden = shape["hidden"]
    return int(shape["layers"] * (4 * hidden * hidden + 3 * hidden * shape["inner"]) + shape["vocabulary"] * hidden)


def checkpoint_bytes(model: str) -> int:
    """Return the bytes of one checkpoint that SAT saves while training `model`: transformer, T5 and VAE in 16 bits."""
    numbers = _numbers()
    return 2 * (transformer_weights(numbers["models"][model]) + t5_weights() + numbers["vae"]["parameters"][0])


def common_gpus() -> list[tuple[str, int, float]]:
    """Return name, nominal GiB and usable bytes of common GPUs, the smallest first."""
    numbers = _numbers()
    return [(gpu["name"], gpu["gib"], gpu["gib"] * _GIB * numbers["usable"]) for gpu in numbers["gpus"]]


def verdicts(memory_mib: int, gpus: int) -> dict[str, str]:
    """Return what fits on a machine of `gpus` GPUs with `memory_mib` each, by "2b lora" and so on, at ZeRO-2."""
    usable = memory_mib * 2**20 * _numbers()["usable"]
    return {
        f"{model} {method}": estimate(TrainingSetup(model, method, gpus)).verdict(usable)
        for model in MODELS
        for method in METHODS
    }


@cache
def _numbers() -> dict[str, Any]:
    data, _ = yamlfile.load(Path(DATA / "plan.yml"), "the numbers of the models")
    return dict(data)


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.0f} million"

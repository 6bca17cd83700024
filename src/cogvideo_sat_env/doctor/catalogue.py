"""All checks, in the order of the report. The list is data: it is complete even when a check's code can't load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.check_result import FULL, GPU, LEVELS, QUICK, CheckSpec

# DeepSpeed's first start compiles its CPU communication extension: 40 to 110 s on two cores, longer on a busy node.
_FIRST_COMPILATION = 600.0
_SHARED = "identity.distribution"  # the check whose process all others that are quick and light run in


def _light(id: str, catches: str, **more: Any) -> CheckSpec:
    """Return a quick check that imports nothing heavy."""
    return CheckSpec(id, QUICK, catches, joins=None if id == _SHARED else _SHARED, light=True, **more)


def _training(id: str, catches: str, level: str = FULL, **more: Any) -> CheckSpec:
    """Return a check that trains."""
    return CheckSpec(id, level, catches, limit=_FIRST_COMPILATION, training=True, **more)


CHECKS: tuple[CheckSpec, ...] = (
    _light("identity.distribution", "PyPI's unrelated `sat`, two packages that both install `decord`"),
    _light("identity.floors", "a requirement that is missing or below its tested floor"),
    _light("identity.bounds", "a version that is known to break SAT"),
    _light("identity.receipt", "packages that are not those of the receipt, or of the lock", made=True),
    _light("identity.overwritten", "pip over conda: replaced packages, overwritten files", made=True),
    _light("identity.python", "variables because of which Python doesn't start, or is not the environment's"),
    CheckSpec(
        "identity.files", FULL, "files that were changed or lost after they were linked", limit=600.0, light=True,
        made=True,
    ),
    _light("identity.activation", "activation scripts that fail, hang or set nothing", made=True),
    _light(
        "identity.pollution", "PYTHONPATH, user site, LD_LIBRARY_PATH or the host's CUDA leaking in", made=True
    ),
    CheckSpec(
        "identity.libraries", QUICK, "two OpenMP runtimes; a CUDA library of the host in the process", limit=180.0,
        joins="imports.together",
    ),
    CheckSpec(
        "imports.alone", FULL, "a module that imports only because another one was imported before it", limit=600.0,
        alone=True,
    ),
    CheckSpec("imports.together", QUICK, "modules that can't share one process", limit=180.0, loader_errors=True),
    CheckSpec("imports.order", FULL, "crashes that depend on the order of decord and torch", limit=240.0),
    CheckSpec(
        "imports.upstream-names", QUICK, "names that CogVideo's sat/ imports and newer versions removed", limit=180.0,
        joins="imports.together",
    ),
    CheckSpec(
        "imports.sat-modules", FULL, "a module of SwissArmyTransformer that newer packages broke", limit=180.0,
        training=True, joins="imports.together",
    ),
    CheckSpec(
        "video.bridge", QUICK, "decord that hands its frames to torch wrongly", limit=120.0, joins="imports.together",
    ),
    CheckSpec("video.decord", QUICK, "wrong, shifted or missing frames from decord", limit=120.0),
    CheckSpec("video.codecs", FULL, "a codec whose frames are wrong, shifted or can't be decoded", limit=180.0),
    CheckSpec("video.sizes", FULL, "odd sizes; scaling and resizing that change or shift frames", limit=180.0),
    CheckSpec("video.write", FULL, "no mp4 backend for samples, or samples that can't be read back", limit=180.0),
    CheckSpec("video.broken", FULL, "a broken or truncated clip that hangs or crashes the loader", limit=180.0),
    CheckSpec(
        "data.webdataset", FULL, "webdataset's changed ResampledShards, invisible to imports", limit=180.0,
        training=True,
    ),
    CheckSpec("data.folder", FULL, "clips with captions that workers load wrongly, or hang on", limit=300.0),
    CheckSpec(
        "data.shards", FULL, "corrupt clips and truncated shards that end a stream; workers that crash", limit=300.0,
        training=True,
    ),
    CheckSpec("text.t5", FULL, "a T5 tokenizer or encoder that can't be loaded from spiece.model", limit=180.0),
    CheckSpec(
        "model.transformer", FULL, "SAT's mixins, attention or half precision that compute something else", limit=180.0,
        training=True,
    ),
    CheckSpec(
        "model.lora", FULL, "LoRA that learns nothing, reaches no layer or can't be merged", limit=120.0, training=True,
        joins="model.transformer",
    ),
    CheckSpec(
        "model.vae", FULL, "3D convolutions that are wrong in bf16 or see later frames", limit=120.0, training=True,
        joins="model.transformer",
    ),
    CheckSpec(
        "model.gpu", GPU, "a GPU that computes something else than the CPU, or in fp32 only", "transformer_gpu",
        limit=300.0, training=True,
    ),
    _training("training.zero2", "SAT, DeepSpeed and torch that import but can't take an optimizer step"),
    _training(
        "training.checkpoint", "SAT's own checkpoints that torch.load refuses (Weights only load failed)",
        after=("training.zero2",),
    ),
    _training(
        "training.resume", "a resumed run that doesn't go on where it stopped", after=("training.zero2",),
        joins="training.checkpoint",
    ),
    _training(
        "training.lora", "LoRA that DeepSpeed can't train, or that changes the frozen weights",
        after=("training.zero2",), joins="training.checkpoint",
    ),
    _training(
        "training.two-processes", "torchrun, gloo or the averaging of gradients that don't work",
        after=("training.zero2",), alone=True,
    ),
    _training("training.gpu", "SAT, DeepSpeed and NCCL that can't train on the GPUs", GPU, alone=True),
    CheckSpec(
        "lora.safetensors", FULL, "LoRA weights that change on the way through safetensors", "safetensors_round_trip",
        limit=180.0, training=True, joins="model.transformer",
    ),
    _training(
        "lora.export", "a trained LoRA that upstream's export tool or diffusers can't take", after=("training.lora",)
    ),
    _light("toolchain.compiler", "no C++ compiler or ninja for DeepSpeed's run-time compilation", training=True),
    _light("toolchain.nvcc", "nvcc of another CUDA than torch's, missing CUDA headers"),
    _light(
        "toolchain.extensions-dir", "a compilation cache that can't be written, is shared, or is locked", training=True
    ),
    CheckSpec(
        "toolchain.extension", FULL, "a host compiler that nvcc refuses, a CUDA extension that doesn't build",
        limit=600.0, training=True, light=True,
    ),
    CheckSpec(
        "toolchain.fused-ema-adam", GPU, "SAT's default optimizer that can't be compiled (fused_ema_adam)", limit=900.0,
        training=True,
    ),
    _light("hardware.limits", "limits of the shell (ulimit) that are too low to import or to train"),
    CheckSpec("hardware.gpu", QUICK, "CPU build on a GPU machine, driver too old for torch's CUDA", limit=120.0),
    CheckSpec(
        "hardware.architectures", GPU, "a GPU that torch was not compiled for (no kernel image is available)",
        limit=120.0,
    ),
    CheckSpec("hardware.memory", GPU, "GPUs too small for the recipe (CUDA out of memory)", training=True),
    CheckSpec("network.hostname", FULL, "a host's name without an address, which nodes can't find", light=True),
    _light(
        "network.interfaces", "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME that name no interface", training=True
    ),
    CheckSpec(
        "network.p2p", GPU, "GPUs that reach each other only slowly, or through the host", limit=180.0, alone=True,
    ),
    CheckSpec(
        "network.nccl", GPU, "NCCL that hangs, sums wrongly or uses the slow way", limit=240.0, training=True,
        alone=True,
    ),
    _light("storage.space", "no room, or no inodes, where a run writes"),
    _light("storage.shared", "caches of compiled code on a file system that nodes share"),
    CheckSpec("storage.import-time", FULL, "an environment whose imports take minutes", limit=600.0, alone=True),
    CheckSpec(
        "security.advisories", FULL, "packages with known vulnerabilities (--advisories)", limit=120.0, light=True,
    ),
    CheckSpec(
        "security.permissions", FULL, "files that every user of the machine could change", limit=300.0, light=True,
        made=True,
    ),
)  # fmt: skip

# Of the user's own checkout and run: only with --sat.
SAT_CHECKS: tuple[CheckSpec, ...] = (
    CheckSpec("sat.checkout", QUICK, "a commit that is not known to train; files changed by hand"),
    CheckSpec(
        "sat.scripts", QUICK, "shell scripts that name missing YAMLs, or exit 0 when training failed",
        joins="sat.checkout",
    ),
    CheckSpec(
        "sat.configs", QUICK, "YAML values that this code can't run with, or drops silently", joins="sat.checkout",
    ),
    CheckSpec(
        "sat.weights", QUICK, "checkpoint, VAE or T5 that is missing, cut off, a pointer, or another model's",
        joins="sat.checkout",
    ),
    CheckSpec("sat.data", QUICK, "clips that can't be read or have no caption", limit=300.0),
    CheckSpec("sat.memory", QUICK, "a run that doesn't fit the GPUs", joins="sat.checkout"),
    CheckSpec("sat.disk", QUICK, "checkpoints that find no room", joins="sat.checkout"),
    CheckSpec("sat.modules", QUICK, "a module of the checkout that can't be imported", limit=300.0),
    CheckSpec(
        "sat.run", FULL, "the user's own code and config that fail in training, evaluation or sampling", limit=2400.0,
        alone=True,
    ),
)  # fmt: skip

ALL_CHECKS = (*CHECKS, *SAT_CHECKS)


def list_checks() -> list[dict[str, Any]]:
    """Return id, subject, level, limit in seconds of every check and the failure that it catches, in their order."""
    return [{key: getattr(spec, key) for key in ("id", "subject", "level", "limit", "catches")} for spec in ALL_CHECKS]


def select(
    level: str, only: Sequence[str] = (), skip: Sequence[str] = (), checks: Sequence[CheckSpec] = CHECKS
) -> list[CheckSpec]:
    """Return the checks to run, in order.

    quick: the quick checks; full: all, those for a GPU included; gpu: the quick ones and those for a GPU.
    `only` and `skip` take ids or subjects ("training" stands for "training.*"). `only` overrides the level.
    Raises InputError for an unknown level, id or subject.
    """
    if level not in LEVELS:
        raise InputError(f"level {level!r} doesn't exist; expected one of {', '.join(LEVELS)}", "--level full")
    known = {spec.id for spec in checks} | {spec.subject for spec in checks}
    unknown = [name for name in (*only, *skip) if name not in known]
    if unknown:
        raise InputError(f"no check is called {', '.join(map(repr, unknown))}", "`doctor --list` shows all ids")
    chosen = []
    for spec in checks:
        names = {spec.id, spec.subject}
        wanted = bool(names & set(only)) if only else level == FULL or spec.level in (QUICK, level)
        if wanted and not names & set(skip):
            chosen.append(spec)
    return chosen

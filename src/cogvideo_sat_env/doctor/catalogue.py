"""All checks, in the order of the report. The list is data: it is complete even when a check's code can't load."""

from __future__ import annotations

from collections.abc import Sequence

from cogvideo_sat_env.doctor.model import FULL, LEVELS, QUICK, CheckSpec
from cogvideo_sat_env.errors import InputError

# DeepSpeed's first start compiles its CPU communication extension: 40 to 110 s on two cores, longer on a busy node.
_FIRST_COMPILATION = 600.0

CHECKS: tuple[CheckSpec, ...] = (
    CheckSpec(
        "identity.distribution", QUICK, "PyPI's unrelated `sat`, two packages that both install `decord`",
        "distribution",
    ),
    CheckSpec("identity.floors", QUICK, "a requirement that is missing or below its tested floor", "floors"),
    CheckSpec("identity.bounds", QUICK, "a version that is known to break SAT", "bounds"),
    CheckSpec("identity.activation", QUICK, "activation scripts that fail, hang or set nothing", "activation"),
    CheckSpec(
        "identity.pollution", QUICK, "PYTHONPATH, user site, LD_LIBRARY_PATH or the host's CUDA leaking in", "pollution"
    ),
    CheckSpec(
        "imports.alone", FULL, "a module that imports only because another one was imported before it", "alone",
        limit=600.0, alone=True,
    ),
    CheckSpec("imports.together", QUICK, "modules that can't share one process", "together", limit=180.0),
    CheckSpec("imports.order", FULL, "crashes that depend on the order of decord and torch", "order", limit=240.0),
    CheckSpec(
        "imports.upstream-names", QUICK, "names that CogVideo's sat/ imports and newer versions removed",
        "upstream_names", limit=180.0, joins="imports.together",
    ),
    CheckSpec("video.decord", QUICK, "wrong, shifted or missing frames from decord", "decord", limit=120.0),
    CheckSpec(
        "video.write", FULL, "no mp4 backend for samples; a truncated video that hangs the loader", "write", limit=180.0
    ),
    CheckSpec(
        "data.webdataset", FULL, "webdataset's changed ResampledShards, invisible to imports", "webdataset",
        limit=180.0, training=True,
    ),
    CheckSpec("text.t5", FULL, "a T5 tokenizer or encoder that can't be loaded from spiece.model", "t5", limit=180.0),
    CheckSpec(
        "training.zero2", FULL, "SAT, DeepSpeed and torch that import but can't take an optimizer step", "zero2",
        limit=_FIRST_COMPILATION, training=True,
    ),
    CheckSpec(
        "training.checkpoint", FULL, "SAT's own checkpoints that torch.load refuses (Weights only load failed)",
        "checkpoint", limit=_FIRST_COMPILATION, training=True, after=("training.zero2",),
    ),
    CheckSpec(
        "lora.safetensors", FULL, "LoRA weights that change on the way through safetensors", "safetensors_round_trip",
        limit=180.0, training=True,
    ),
    CheckSpec(
        "toolchain.compiler", QUICK, "no C++ compiler or ninja for DeepSpeed's run-time compilation", "compiler",
        training=True,
    ),
    CheckSpec("toolchain.nvcc", QUICK, "nvcc of another CUDA than torch's, missing CUDA headers", "nvcc"),
    CheckSpec(
        "toolchain.extensions-dir", QUICK, "a compilation cache that can't be written, is shared, or is locked",
        "extensions_dir", training=True,
    ),
    CheckSpec("hardware.gpu", QUICK, "CPU build on a GPU machine, driver too old for torch's CUDA", "gpu", limit=120.0),
)  # fmt: skip


def select(
    level: str, only: Sequence[str] = (), skip: Sequence[str] = (), checks: Sequence[CheckSpec] = CHECKS
) -> list[CheckSpec]:
    """Return the checks to run, in order.

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
        wanted = bool(names & set(only)) if only else level == FULL or spec.level == QUICK
        if wanted and not names & set(skip):
            chosen.append(spec)
    return chosen

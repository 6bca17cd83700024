"""What a config makes upstream's code do: one function a rule, each a failure that upstream reports late or never.

A rule looks at the code of the checkout where the answer depends on it, so that a corrected checkout isn't blamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.doctor.sat.checkout import Checkout
from cogvideo_sat_env.doctor.sat.configs import Config
from cogvideo_sat_env.doctor.sat.finding import FAILED, WARNING, Edit, Finding

NETWORK = "model.network_config.params"
POSITIONS = f"{NETWORK}.modules.pos_embed_config"
LORA = f"{NETWORK}.modules.lora_config"
FRAMES = "data.params.max_num_frames"
SPACE = 8  # the VAE's factor in height and width
MODELS = {1920: "2b", 3072: "5b"}  # by the transformer's hidden size


@dataclass(frozen=True)
class Run:
    """A run that is examined: the checkout, its merged config, and what else stands on the command line."""

    checkout: Checkout
    config: Config
    options: tuple[tuple[str, str], ...] = ()  # of the command line, beyond --base

    @property
    def training(self) -> bool:
        """Whether this config is for train_video.py (else for sample_video.py)."""
        return self.config.get("args.mode") != "inference"

    @property
    def model(self) -> str | None:
        """The name of CogVideoX's model by its size, "2b" or "5b"; None for any other."""
        hidden = self.config.get(f"{NETWORK}.hidden_size")
        return MODELS.get(hidden) if isinstance(hidden, int) else None

    def found(self, rule: str, at: str, text: str, remedy: str, **more: Any) -> Finding:
        """Return the finding of `rule` about the value at `at`; a failure, unless `status` says otherwise.

        `edit` is what corrects it: a place, the value that belongs there, and the section that its line moves to.
        """
        place = self.config.place(at)
        where = f"{self.checkout.shown(place.file)}:{place.line}"
        edit = more.pop("edit", None)
        if edit is not None:
            at, value, *to = edit
            edit = Edit(str(place.file), tuple(at.split(".")), value, tuple(to[0].split(".")) if to else None)
        return Finding(f"sat.{rule}", more.pop("status", FAILED), where, text, remedy, edit=edit, **more)


def judge(run: Run) -> list[Finding]:
    """Return what the config gets wrong, in the order of the rules."""
    return [finding for rule in RULES for finding in rule(run)]


def _patch(config: Config) -> tuple[int, int, int] | None:
    """Return the patch's frames, height and width, None where the config has no such thing."""
    value = config.get(f"{NETWORK}.patch_size")
    if isinstance(value, list) and len(value) == 3 and all(_count(item) for item in value):
        return (value[0], value[1], value[2])
    return (1, value, value) if _count(value) else None


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def patch_size(run: Run) -> Iterator[Finding]:
    """Upstream's newer code wants three numbers; all 1.0 YAMLs still have one."""
    at = f"{NETWORK}.patch_size"
    value = run.config.get(at)
    if value is None or "reduce(mul, patch_size" not in run.checkout.source("dit_video_concat.py"):
        return
    if _count(value):
        yield run.found(
            "patch-size", at,
            f"patch_size: {value} is one number; this code takes three (frames, height, width)",
            f"patch_size: [1, {value}, {value}]", error="TypeError: 'int' object is not subscriptable",
            edit=(at, [1, value, value]),
        )  # fmt: skip
    elif _patch(run.config) is None:
        yield run.found(
            "patch-size", at,
            f"patch_size: {value!r}; expected three whole numbers (frames, height, width)",
            "patch_size: [1, 2, 2] for CogVideoX 1.0, [2, 2, 2] for 1.5",
        )  # fmt: skip


def interpolation(run: Run) -> Iterator[Finding]:
    """The code passes these itself: in the position embedding's own params they come twice."""
    if "height_interpolation=self.height_interpolation" not in run.checkout.source("dit_video_concat.py"):
        return
    for name in ("height_interpolation", "width_interpolation", "time_interpolation"):
        at = f"{POSITIONS}.params.{name}"
        if run.config.has(at):
            yield run.found(
                "interpolation", at,
                f"{name} stands in pos_embed_config.params; this code takes it from network_config.params",
                f"move the line to network_config.params: {name}: {run.config.get(at)}",
                error=f"TypeError: got multiple values for keyword argument '{name}'",
                edit=(at, None, NETWORK),
            )  # fmt: skip


def latent_input(run: Run) -> Iterator[Finding]:
    """`latent_input: true` skips the VAE; upstream's datasets give pixels."""
    target = str(run.config.get("data.target", ""))
    if run.training and run.config.get("model.latent_input") is True and target.startswith("data_video."):
        yield run.found(
            "latent-input", "model.latent_input",
            f"latent_input: true takes clips as latents that the VAE has encoded already; {target} gives pixels",
            "latent_input: false", error="EinopsError",
            edit=("model.latent_input", False),
        )  # fmt: skip


def latent_frames(run: Run) -> Iterator[Finding]:
    """CogVideoX 1.5 joins latent frames in pairs: their number must be even."""
    patch = _patch(run.config)
    rate = run.config.get(f"{NETWORK}.time_compressed_rate")
    if patch is None or not _count(rate):
        return
    if not run.training:
        frames = run.config.get("args.sampling_num_frames")
        if _count(frames) and frames % patch[0]:
            yield run.found(
                "latent-frames", "args.sampling_num_frames",
                f"sampling_num_frames: {frames} latent frames can't be joined by {patch[0]} (patch_size)",
                f"sampling_num_frames: {frames + 1}", error="EinopsError",
                edit=("args.sampling_num_frames", frames + 1),
            )  # fmt: skip
        return
    frames = run.config.get(FRAMES)
    if not _count(frames):
        return
    latents = (frames - 1) // rate + 1
    if latents % patch[0]:
        fewer = (latents - latents % patch[0] - 1) * rate + 1
        fitting = fewer if fewer > 0 else (patch[0] - 1) * rate + 1
        yield run.found(
            "latent-frames", FRAMES,
            f"max_num_frames: {frames} become {latents} latent frames, which can't be joined by {patch[0]}"
            " (patch_size)",
            f"max_num_frames: {fitting}", error="EinopsError: Error while processing rearrange-reduction pattern",
            edit=(FRAMES, fitting),
        )  # fmt: skip
    elif (frames - 1) % rate:
        yield run.found(
            "latent-frames", FRAMES,
            f"max_num_frames: {frames} is not a multiple of {rate} and 1 more: the VAE joins frames by {rate} after the"
            " first",
            f"max_num_frames: {(latents - 1) * rate + 1}", status=WARNING,
        )  # fmt: skip


def ofs(run: Run) -> Iterator[Finding]:
    """CogVideoX 1.5 image-to-video has an embedding that only sampling passes."""
    at = f"{NETWORK}.ofs_embed_dim"
    if (
        run.training
        and run.config.get(at) is not None
        and 'kwargs["ofs"]' in run.checkout.source("dit_video_concat.py")
    ):
        yield run.found(
            "ofs", at, "ofs_embed_dim needs a value `ofs` in each step; this code passes one in sampling only",
            f"{satenv('sat fix --code', run.checkout.folder)} (takes sampling's, 2.0)", error="KeyError: 'ofs'",
        )  # fmt: skip


def warmup(run: Run) -> Iterator[Finding]:
    """SAT divides by the number of warm-up steps."""
    value = run.config.get("args.warmup")
    if run.training and isinstance(value, (int, float)) and value == 0:
        yield run.found(
            "warmup", "args.warmup", f"warmup: {value}: SAT's learning rate divides by the steps of warm-up",
            "warmup: 0.01", error="ZeroDivisionError: float division by zero", edit=("args.warmup", 0.01),
        )  # fmt: skip


def resume(run: Run) -> Iterator[Finding]:
    """SAT 0.4.12 looks for a random state that it never saves, and ends with exit code 0."""
    args = run.config.get("args", {})
    if run.training and args.get("mode") == "pretrain" and args.get("load") and not args.get("no_load_rng"):
        yield run.found(
            "resume", "args.load",
            "mode: pretrain with load: SAT asks for a random state that it never saved, and ends without training",
            "no_load_rng: True", error="Unable to load optimizer from checkpoint",
            edit=("args.no_load_rng", True),
        )  # fmt: skip


def missing_keys(run: Run) -> Iterator[Finding]:
    """Published checkpoints hold the transformer alone: T5 and VAE count as missing."""
    args = run.config.get("args", {})
    name = "force_train" if run.training else "force_inference"
    if args.get("load") and not args.get(name):
        yield run.found(
            name.replace("_", "-"), "args.load",
            f"load without {name}: SAT refuses a checkpoint without T5 and VAE, as the published ones are",
            f"{name}: True", error="AssertionError" if run.training else "Missing keys for inference",
            edit=(f"args.{name}", True),
        )  # fmt: skip


def precision(run: Run) -> Iterator[Finding]:
    """fp16 or bf16, one of them, and the one that the model was made with."""
    place = "deepspeed.{}.enabled" if run.training else "args.{}"
    switched = [name for name in ("bf16", "fp16") if run.config.get(place.format(name))]
    at = place.format("bf16")
    if len(switched) == 2:
        yield run.found(
            "precision", at, "fp16 and bf16 are both on", "switch one of them off: fp16 for 2B, bf16 for 5B",
            error="cannot specify both fp16 and bf16",
        )  # fmt: skip
        return
    wanted = {"2b": "fp16", "5b": "bf16"}.get(run.model or "")
    if wanted and switched and switched[0] != wanted:
        yield run.found(
            "precision", at, f"{switched[0]} is on; CogVideoX-{str(run.model).upper()} was made with {wanted}",
            f"{wanted} on and {switched[0]} off, as sft.yaml's comments say", status=WARNING,
        )  # fmt: skip


def lora(run: Run) -> Iterator[Finding]:
    """LoRA is its mixin and the freezing of everything else, both."""
    if not run.training:
        return
    frozen = run.config.get("model.not_trainable_prefixes")
    everything = isinstance(frozen, list) and "all" in frozen
    if run.config.has("model.lora_config"):
        yield run.found(
            "lora", "model.lora_config",
            "lora_config directly under model is read by nobody (upstream's README has it so)",
            "move it to network_config.params.modules, as configs/cogvideox_2b_lora.yaml has it",
        )  # fmt: skip
    if everything and not run.config.has(LORA):
        yield run.found(
            "lora", "model.not_trainable_prefixes",
            "everything is frozen and there is no lora_config: nothing is trained",
            "add lora_config to network_config.params.modules, or remove not_trainable_prefixes for full fine-tuning",
        )  # fmt: skip
    if run.config.has(LORA) and not everything:
        yield run.found(
            "lora", LORA,
            "lora_config without not_trainable_prefixes: ['all']: all weights are trained, not LoRA's alone",
            "not_trainable_prefixes: ['all'] under model", status=WARNING,
        )  # fmt: skip


def channels(run: Run) -> Iterator[Finding]:
    """Image-to-video sees the image beside the noise: twice the channels."""
    inner, outer = (run.config.get(f"{NETWORK}.{name}") for name in ("in_channels", "out_channels"))
    if not (_count(inner) and _count(outer)):
        return
    image = bool(run.config.get("model.noised_image_input"))
    wanted = outer * (2 if image else 1)
    if inner != wanted:
        kind = "image-to-video (noised_image_input)" if image else "text-to-video"
        yield run.found(
            "channels", f"{NETWORK}.in_channels",
            f"in_channels: {inner} with out_channels: {outer}; {kind} needs {wanted}",
            "take model section and weights of one model: t2v, or i2v",
        )  # fmt: skip


def sizes(run: Run) -> Iterator[Finding]:
    """The clips' size against VAE, patch and position table."""
    patch = _patch(run.config)
    at = "data.params.video_size" if run.training else "args.sampling_image_size"
    size = run.config.get(at)
    if patch is None or not (isinstance(size, list) and len(size) == 2 and all(map(_count, size))):
        return
    for name, value, step in zip(("height", "width"), size, (SPACE * patch[1], SPACE * patch[2]), strict=True):
        if value % step:
            yield run.found(
                "size", at, f"{name} {value} is not a multiple of {step}: the VAE shrinks by {SPACE}, a patch takes"
                f" {step // SPACE} latents", f"{name} {max(step, value // step * step)}", error="EinopsError",
            )  # fmt: skip
            return
    latents = (size[0] // SPACE, size[1] // SPACE)
    table = (run.config.get(f"{NETWORK}.latent_height"), run.config.get(f"{NETWORK}.latent_width"))
    if not all(map(_count, table)):
        return
    rotary = "Rotary" in str(run.config.get(f"{POSITIONS}.target"))
    learned = bool(run.config.get(f"{POSITIONS}.params.learnable_pos_embed"))
    if (rotary and not learned and (latents[0] > table[0] or latents[1] > table[1])) or (
        (not rotary or learned) and latents != table
    ):
        yield run.found(
            "size", at,
            f"clips of {size[0]}x{size[1]} have {latents[0]}x{latents[1]} latents; the position table is made for"
            f" {table[0]}x{table[1]}",
            f"{at.rpartition('.')[2]}: [{table[0] * SPACE}, {table[1] * SPACE}], or latent_height: {latents[0]} and"
            f" latent_width: {latents[1]}",
        )  # fmt: skip


def table_frames(run: Run) -> Iterator[Finding]:
    """More frames than the position table has; sampling counts latent ones."""
    rate, most = run.config.get(f"{NETWORK}.time_compressed_rate"), run.config.get(f"{NETWORK}.num_frames")
    frames = run.config.get(FRAMES if run.training else "args.sampling_num_frames")
    if not (_count(rate) and _count(most) and _count(frames)):
        return
    table = (most - 1) // rate + 1
    if run.training and (frames - 1) // rate + 1 > table:
        yield run.found(
            "frames", FRAMES, f"max_num_frames: {frames} is more than the model's num_frames: {most}",
            f"max_num_frames: {most}, or num_frames: {frames} under network_config.params",
        )  # fmt: skip
    if not run.training and frames > table:
        yield run.found(
            "frames", "args.sampling_num_frames",
            f"sampling_num_frames: {frames} latent frames; the model has {table} (num_frames: {most})",
            f"sampling_num_frames: {table}", error="RuntimeError: The size of tensor a",
            edit=("args.sampling_num_frames", table),
        )  # fmt: skip


def text_length(run: Run) -> Iterator[Finding]:
    """The text encoder's length and the position table's are one number."""
    models = run.config.get("model.conditioner_config.params.emb_models")
    wanted = run.config.get(f"{POSITIONS}.params.text_length")
    if not isinstance(models, list) or not _count(wanted):
        return
    for model in models:
        length = model.get("params", {}).get("max_length") if isinstance(model, dict) else None
        if _count(length) and length != wanted:
            yield run.found(
                "text-length", f"{POSITIONS}.params.text_length",
                f"text_length: {wanted}, but the text encoder gives max_length: {length} tokens",
                f"text_length: {length}",
            )  # fmt: skip


def batch_size(run: Run) -> Iterator[Finding]:
    """DeepSpeed's batch is one product; what doesn't multiply is refused at its start."""
    section = run.config.get("deepspeed")
    if not run.training or not isinstance(section, dict):
        return
    size = section.get("train_micro_batch_size_per_gpu")
    size = section.get("train_batch_size") if size is None else size
    if size is None:
        yield run.found(
            "batch", "deepspeed", "neither train_micro_batch_size_per_gpu nor train_batch_size is set",
            "train_micro_batch_size_per_gpu: 1",
        )  # fmt: skip
    elif not _count(size):
        yield run.found("batch", "deepspeed", f"batch size {size!r}; expected 1 or more",
                        "train_micro_batch_size_per_gpu: 1")  # fmt: skip
    stage = run.config.get("deepspeed.zero_optimization.stage")
    if stage not in (None, 0, 1, 2, 3):
        yield run.found("zero", "deepspeed.zero_optimization.stage", f"ZeRO stage {stage!r}; expected 0, 1, 2 or 3",
                        "stage: 2")  # fmt: skip
    if stage == 3 and run.config.has(LORA):
        yield run.found(
            "zero", "deepspeed.zero_optimization.stage",
            "ZeRO stage 3 splits the frozen weights too, and SAT saves them as shards that its tools can't export",
            "stage: 2", status=WARNING,
        )  # fmt: skip


def lengths(run: Run) -> Iterator[Finding]:
    """How long a run is, and whether it saves anything on the way."""
    args = run.config.get("args", {})
    if not run.training:
        return
    every, steps = args.get("save_interval"), args.get("train_iters")
    if steps is not None and args.get("epochs") is not None:
        yield run.found(
            "length", "args.epochs", "train_iters and epochs are both set", "remove one of the two",
            error="only one of train_iters and epochs should be set.",
        )  # fmt: skip
    if not args.get("save"):
        yield run.found("save", "args", "no `save`: nothing of the training is kept", "save: ckpts")
    elif _count(every) and _count(steps) and every > steps:
        yield run.found(
            "save", "args.save_interval",
            f"save_interval: {every} is more than train_iters: {steps}: a run that is cut off leaves no checkpoint",
            f"save_interval: {max(1, steps // 4)}", status=WARNING,
        )  # fmt: skip
    folders, weights = args.get("train_data"), args.get("train_data_weights")
    if not folders:
        yield run.found("data", "args", "no `train_data`: there is nothing to train on", "train_data: [FOLDER]",
                        error="No training data specified")  # fmt: skip
    if isinstance(weights, list) and isinstance(folders, list) and len(weights) != len(folders):
        yield run.found("data", "args.train_data_weights",
                        f"{len(weights)} train_data_weights for {len(folders)} folders",
                        "one for each folder", error="AssertionError")  # fmt: skip


def split(run: Run) -> Iterator[Finding]:
    """SAT's own split of the data wants blocks of 10,000 samples."""
    if not run.training or not str(run.config.get("data.target", "")).endswith("SFTDataset"):
        return
    value = str(run.config.get("args.split", "1000,1,1"))  # SAT's default
    parts = [part for part in value.replace("/", ",").split(",") if part.strip(" 0.")]
    if len(parts) > 1:
        at = "args.split" if run.config.has("args.split") else "args.train_data"
        yield run.found(
            "split", at, f"split: {value}: SAT splits the clips in blocks of 10,000 and refuses fewer",
            "split: 1,0,0, and valid_data for the evaluation", error="AssertionError: assert block_size <= len(ds)",
            edit=("args.split", "1,0,0"),
        )  # fmt: skip


def evaluation(run: Run) -> Iterator[Finding]:
    """SAT multiplies with these two, which have no default."""
    args = run.config.get("args", {})
    if not run.training or not args.get("valid_data"):
        return
    for name, value in (("eval_batch_size", 1), ("eval_interval", 100)):
        if args.get(name) is None:
            yield run.found(
                "evaluation", "args.valid_data", f"valid_data without {name}, which SAT reckons with",
                f"{name}: {value}", error="TypeError: unsupported operand type(s)",
                edit=(f"args.{name}", value),
            )  # fmt: skip


def command_line(run: Run) -> Iterator[Finding]:
    """Upstream lays the YAML's `args` over the command line, not the other way round."""
    for name, value in run.options:
        at = f"args.{name}"
        if run.config.has(at) and str(run.config.get(at)) != value:
            yield run.found(
                "command-line", at,
                f"--{name} {value} of the command line is lost: the YAML's {name}: {run.config.get(at)} wins",
                f"{name}: {value}, or remove the line", status=WARNING,
            )  # fmt: skip


def sections(run: Run) -> Iterator[Finding]:
    """What each entry point can't do without."""
    needed = ["model", "args", *(["data", "deepspeed"] if run.training else [])]
    missing = [name for name in needed if not isinstance(run.config.get(name), dict)]
    if missing:
        other = "a model's YAML and sft.yaml" if run.training else "a model's YAML and inference.yaml"
        files = " ".join(run.checkout.shown(file) for file in run.config.files)
        yield Finding(
            "sat.sections", FAILED, files, f"no section {' or '.join(repr(name) for name in missing)} in these files",
            f"name both files of a run: {other}",
            error="AttributeError: 'Namespace' object has no attribute 'model_config'",
        )  # fmt: skip


def experiment(run: Run) -> Iterator[Finding]:
    """Values that upstream ships as a form to fill in."""
    for at in ("args.load", "args.save"):
        value = run.config.get(at)
        if isinstance(value, str) and "{" in value:
            yield run.found("placeholder", at, f"{at.rpartition('.')[2]}: {value!r} is still the form to fill in",
                            "put the folder's path there")  # fmt: skip


RULES: tuple[Callable[[Run], Iterable[Finding]], ...] = (
    sections, patch_size, interpolation, latent_input, latent_frames, ofs, sizes, table_frames, text_length, channels,
    lora, precision, missing_keys, resume, warmup, batch_size, lengths, split, evaluation, experiment, command_line,
)  # fmt: skip

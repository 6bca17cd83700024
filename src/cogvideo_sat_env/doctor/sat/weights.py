"""Weights that a config names: there, whole, of the layout that upstream reads. Only headers are read."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from cogvideo_sat_env.doctor.sat.finding import WARNING, Finding
from cogvideo_sat_env.doctor.sat.rules import NETWORK, Run

T5 = "model.conditioner_config.params.emb_models"
VAE = "model.first_stage_config.params.ckpt_path"
LFS_START = b"version https://git-lfs.github.com/spec/"
_PULL = "git lfs install && git lfs pull in that clone"
_TRANSFORMER = "the folder that holds `latest` and a numbered folder with mp_rank_00_model_states.pt"
_HEADER_MOST = 100 * 2**20  # bytes of a safetensors header; those of 70B models have 100 kB


def why_broken(path: Path) -> tuple[str, str] | None:
    """Return what is wrong with a .pt, .bin or .safetensors file and what to do, None when it looks whole.

    Reads its first and last bytes. Raises OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(LFS_START):
        return "is a Git LFS pointer, not the file", _PULL
    again = "download it again (hf download resumes)"
    if size == 0:
        return "is empty", again
    if start.lstrip()[:1] == b"<" and b"html" in start.lower():
        return "is a web page, not weights", again
    if path.suffix == ".safetensors":
        return _why_broken_safetensors(path, start, size, again)
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            return f"is cut off: its directory is missing ({size:,} bytes are there)", again
        if not any(name.endswith("data.pkl") for name in names):
            return "is a zip archive, not a file of torch.save", "unpack it, and name what was in it"
        return None
    if start[:1] == b"\x80" or b"ustar" in start:  # torch.save before 1.6
        return None
    return "is no file of torch.save", again


def _why_broken_safetensors(path: Path, start: bytes, size: int, again: str) -> tuple[str, str] | None:
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if not 2 <= length <= _HEADER_MOST:
        return "is no safetensors file", again
    with path.open("rb") as file:
        file.seek(8)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        end = max((item["data_offsets"][1] for key, item in header.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return f"is cut off or no safetensors file ({size:,} bytes are there)", again
    if size != 8 + length + end:
        return f"is cut off: {size:,} of {8 + length + end:,} bytes are there", again
    return None


def examine(run: Run) -> Iterator[Finding]:
    """Yield what is wrong with the weights of the config; relative paths start in sat/, where upstream runs."""
    yield from _checkpoint(run)
    yield from _vae(run)
    yield from _t5(run)


def resolve(run: Run, value: str) -> Path:
    """Return the path that upstream's code opens for `value`."""
    return run.checkout.folder / value  # an absolute one stays what it is


def _checkpoint(run: Run) -> Iterator[Finding]:
    at = "args.load"
    value = run.config.get(at)
    if value is None:
        if run.training and run.config.get("args.mode") == "finetune":
            yield run.found("load", "args.mode", "mode: finetune without `load`: training starts from random weights",
                            "load: the folder `transformer` of the published SAT weights", status=WARNING)  # fmt: skip
        return
    if not isinstance(value, str) or "{" in value:
        return  # the rules name the form to fill in
    folder = resolve(run, value)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        yield run.found("load", at, f"load: {value}: {what}; expected {_TRANSFORMER}", "correct the path",
                        error="could not find the metadata file")  # fmt: skip
        return
    latest = folder / "latest"
    if not latest.is_file():
        inner = next((name for name in ("transformer", "1", "1000") if (folder / name).is_dir()), None)
        if (folder / "mp_rank_00_model_states.pt").exists():
            hint = f"load: {os.path.dirname(value.rstrip('/')) or '..'} (the folder above)"
        elif inner == "transformer":
            hint = f"load: {value.rstrip('/')}/transformer"
        elif inner is not None:
            hint = f"echo {inner} > '{latest}'"
        else:
            hint = "name the folder `transformer` of the published SAT weights"
        yield run.found("load", at, f"load: {value} has no file `latest`; expected {_TRANSFORMER}", hint,
                        error="could not find the metadata file")  # fmt: skip
        return
    text = latest.read_text(encoding="utf-8", errors="replace").strip()
    if not (text.isdecimal() and int(text) > 0) and text != "release":
        number = text.removesuffix("-ema")
        hint = f"echo {number} > '{latest}'" if number.isdecimal() else "write the number of its folder into it"
        yield run.found("load", at, f"{latest}: holds {text[:40]!r}; expected a number above 0 (SAT ends with exit"
                        " code 0 there)", hint, error="ERROR: Invalid metadata file")  # fmt: skip
        return
    states = folder / text / "mp_rank_00_model_states.pt"
    if not states.is_file():
        yield run.found("load", at, f"{states}: no such file; `latest` says {text}",
                        "download the checkpoint again, or correct `latest`", error="FileNotFoundError")  # fmt: skip
        return
    yield from _whole(run, at, states)
    parallel = run.config.get("args.model_parallel_size", 1)
    if isinstance(parallel, int) and parallel > 1 and not (folder / text / "mp_rank_01_model_states.pt").is_file():
        yield run.found("load", "args.model_parallel_size",
                        f"model_parallel_size: {parallel}, and the checkpoint has one part",
                        "model_parallel_size: 1")  # fmt: skip


def _whole(run: Run, at: str, path: Path) -> Iterator[Finding]:
    try:
        problem = why_broken(path)
    except OSError as error:
        problem = (f"can't be read: {error.strerror}", "check its permissions")
    if problem is not None:
        yield run.found("weights", at, f"{path}: {problem[0]}", problem[1], error="UnpicklingError")


def _vae(run: Run) -> Iterator[Finding]:
    value = run.config.get(VAE)
    if not isinstance(value, str):
        if run.config.has("model.first_stage_config"):
            yield run.found("vae", "model.first_stage_config", "the VAE has no ckpt_path: it would encode with random"
                            " weights", "ckpt_path: .../vae/3d-vae.pt")  # fmt: skip
        return
    path = resolve(run, value)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        yield run.found("vae", VAE, f"ckpt_path: {value}: {what}; expected the VAE's weights (3d-vae.pt)",
                        "correct the path; it is relative to sat/", error="FileNotFoundError")  # fmt: skip
        return
    yield from _whole(run, VAE, path)


def _t5(run: Run) -> Iterator[Finding]:
    models = run.config.get(T5)
    for model in models if isinstance(models, list) else []:
        params = model.get("params", {}) if isinstance(model, dict) else {}
        value = params.get("model_dir")
        if isinstance(value, str):
            yield from _t5_folder(run, value)


def _t5_folder(run: Run, value: str) -> Iterator[Finding]:
    folder = resolve(run, value)
    layout = "the T5 folder: config.json, spiece.model and the weights (text_encoder/* and tokenizer/* of CogVideoX-2b)"
    if not folder.is_dir():
        hint = "correct the path; it is relative to sat/"
        what = "no such folder"
        if value.count("/") == 1 and not value.startswith((".", "/")):
            what = "no such folder, so that it is asked for on Hugging Face's hub (about 45 GB)"
        yield run.found("t5", T5, f"model_dir: {value}: {what}; expected {layout}", hint,
                        error="is not a local folder and is not a valid model identifier")  # fmt: skip
        return
    if not (folder / "config.json").is_file() and (folder / "text_encoder").is_dir():
        yield run.found("t5", T5, f"model_dir: {value} is the diffusers layout; expected {layout}",
                        f"mkdir T5 && cp '{folder}'/text_encoder/* '{folder}'/tokenizer/* T5, and"
                        " model_dir: T5")  # fmt: skip
        return
    missing = [name for name in ("config.json", "spiece.model") if not (folder / name).is_file()]
    weights = _t5_weights(folder)
    if not weights:
        missing.append("model.safetensors (or pytorch_model.bin)")
    if missing:
        yield run.found("t5", T5, f"model_dir: {value} lacks {', '.join(missing)}; expected {layout}",
                        "copy what is missing from CogVideoX-2b's text_encoder and tokenizer folders")  # fmt: skip
        return
    for path in [folder / "spiece.model", *weights]:
        if not path.is_file():
            yield run.found("t5", T5, f"{path}: no such file; the index names it", "download T5 again")
        elif path.suffix == ".model":
            if path.read_bytes()[:64].startswith(LFS_START):
                yield run.found("t5", T5, f"{path}: is a Git LFS pointer, not the file", _PULL)
        else:
            yield from _whole(run, T5, path)
    try:
        width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["d_model"]
    except (OSError, ValueError, KeyError, TypeError):
        yield run.found("t5", T5, f"{folder / 'config.json'}: is not the config of a T5", "download T5 again")
        return
    wanted = run.config.get(f"{NETWORK}.modules.patch_embed_config.params.text_hidden_size")
    if isinstance(wanted, int) and width != wanted:
        yield run.found("t5", T5, f"{folder}: is a T5 of width {width}; the transformer wants text_hidden_size:"
                        f" {wanted} (t5-v1_1-xxl has 4096)", "take t5-v1_1-xxl")  # fmt: skip


def _t5_weights(folder: Path) -> list[Path]:
    """Return the files of T5's weights, those that an index names though they are missing."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        try:
            names = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
            return [folder / name for name in sorted(names)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return [path for path in (folder / "model.safetensors", folder / "pytorch_model.bin") if path.is_file()]

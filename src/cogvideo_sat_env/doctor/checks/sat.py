"""The user's own checkout and run (--sat, --base): what reading finds, and a short shrunk run of their own code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from . import _clips
from ._probe import ProbeOutcome, ProbeRequest, failed, last_error, not_run, passed, run_program, warning

_HERE = Path(__file__).resolve().parent
_TRAIN_SECONDS, _SAMPLE_SECONDS, _PREPARE_SECONDS = 900.0, 400.0, 300.0
_SIZE = (80, 64)  # of the clips that stand in for data that isn't there: width, height
_LOSS = re.compile(r"total loss\s+([\d.Ee+-]+|nan)")
_TRIED = 24  # clips that are decoded; the others are counted only


def _read(name: str, request: ProbeRequest) -> ProbeOutcome:
    """Return what reading the checkout and its configs has found (doctor/sat/)."""
    found = request.inputs["sat"]["read"].get(name)
    if found is None:
        return not_run("no --base: name the YAMLs of the run")
    return ProbeOutcome(**found)


# Which commit, and what was changed in it; checkpoint, T5 and VAE; upstream's shell scripts; the GPUs' memory; room for
# the checkpoints that the run will write: reading tells it all.
checkout, weights, scripts, memory, disk = (
    partial(_read, name) for name in ("checkout", "weights", "scripts", "memory", "disk")
)


def configs(request: ProbeRequest) -> ProbeOutcome:
    """The merged YAMLs against what the code does with them; merged once more by OmegaConf itself."""
    outcome = _read("configs", request)
    bases = request.inputs["sat"]["bases"]
    if not bases:
        return outcome
    from omegaconf import OmegaConf

    try:
        merged = OmegaConf.merge(*[OmegaConf.load(base) for base in bases])
        OmegaConf.to_container(merged, resolve=True)
    except Exception as error:
        return failed(f"OmegaConf can't read {' '.join(bases)}: {' '.join(str(error).split())}", "correct that YAML")
    return outcome


def data(request: ProbeRequest) -> ProbeOutcome:
    """Clips and captions: what pairs, and whether each clip can be decoded as SFTDataset does it."""
    outcome = _read("data", request)
    facts = request.inputs["sat"].get("clips")
    if outcome.status in ("failed", "not_run") or not facts or not facts["paths"]:
        return outcome
    paths = facts["paths"]
    step = max(1, len(paths) // _TRIED)
    tried = paths[::step][:_TRIED]
    bad, slow, codecs = [], [], set()
    for path in tried:
        problem, codec = _decodes(path, facts)
        codecs.add(codec)
        if problem:
            bad.append(f"{path}: {problem}")
        if codec in ("hevc", "av1"):
            slow.append(path)
    count = (
        f"{len(paths)} clips, {facts['captions']} with a caption; {len(tried)} decoded ({', '.join(sorted(codecs))})"
    )
    if bad:
        return failed(f"{len(bad)} of {len(tried)} clips tried fail: {bad[0]}",
                      "leave them out, or write them anew: ffmpeg -i CLIP.mp4 -c:v libx264 -pix_fmt yuv420p NEW.mp4",
                      failed=bad)  # fmt: skip
    if slow:
        return warning(f"{count}; HEVC and AV1 give wrong frames after a seek, or none, e.g. {slow[0]}",
                       "write them as h264: ffmpeg -i CLIP.mp4 -c:v libx264 -pix_fmt yuv420p NEW.mp4")  # fmt: skip
    if outcome.status == "warning":
        return outcome
    return passed(count)


def _decodes(path: str, facts: dict[str, Any]) -> tuple[str | None, str]:
    """Read a clip as SFTDataset does; return what goes wrong, and its codec."""
    import decord
    import imageio_ffmpeg
    import numpy as np

    done = run_program([imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", path], 60.0)
    match = re.search(r"Video: (\w+)", done.stderr)
    codec = match[1] if match else "unknown"
    try:
        reader = decord.VideoReader(path, height=-1, width=-1)
        length, rate = len(reader), float(reader.get_avg_fps())
        if not length or not rate > 0:
            return f"{length} frames at {rate} per second", codec
        most, skip, fps = facts["frames"], int(facts["skip"]), facts["fps"]
        if length / rate * fps > most:
            start = skip
            end = int(start + most / fps * rate)
            wanted = np.arange(start, end, (end - start) // most).astype(int)
            read = np.arange(start, min(end, length))
            beyond = wanted[wanted - start >= len(read)]
            if len(beyond):
                return (
                    f"{length} frames at {rate:g} per second are too few for {most} frames at {fps}, after {skip} that"
                    " are left out (IndexError in SFTDataset)", codec,
                )  # fmt: skip
        else:
            read = np.arange(skip, length - skip)
        if not len(read):
            return f"{length} frames: none is left after {skip} at each end", codec
        reader.get_batch(read[[0, len(read) // 2, -1]])
    except Exception as error:
        return " ".join(str(error).split())[:200] or type(error).__name__, codec
    return None, codec


def modules(request: ProbeRequest) -> ProbeOutcome:
    """Import every module of the checkout that its entry points reach, each in a process that has imported no other."""
    facts = request.inputs["sat"]
    names = facts["modules"]
    code = (
        "import importlib, json, sys, traceback\n"
        "sys.dont_write_bytecode = True\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "found = {}\n"
        "for name in json.loads(sys.argv[2]):\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except BaseException as error:\n"
        "        found[name] = f'{type(error).__name__}: {error}'\n"
        "print('\\nmodules:' + json.dumps(found))\n"
    )
    done = run_program([sys.executable, "-c", code, facts["folder"], json.dumps(names)], 240.0, cwd=request.workdir)
    match = re.search(r"^modules:(.*)$", done.stdout, re.MULTILINE)
    if match is None:
        return failed(f"importing {len(names)} modules ended with code {done.returncode}: {last_error(done.stderr)}")
    broken: dict[str, str] = json.loads(match[1])
    if broken:
        name, reason = next(iter(broken.items()))
        return failed(f"{len(broken)} of {len(names)} modules can't be imported: {name}: {reason[:300]}", broken=broken)
    return passed(f"{len(names)} modules that {' and '.join(facts['entries'])} reach can be imported")


def run(request: ProbeRequest) -> ProbeOutcome:
    """Take three steps of the user's own code on their own config, shrunk, evaluate, save, and sample once."""
    facts = request.inputs["sat"]
    if not facts.get("run"):
        return not_run(facts.get("no_run") or "no --base: name the YAMLs of the run")
    folder = request.workdir
    plan = facts["run"]
    file, config = _written(request, "run.yaml", plan["config"])
    problem = _prepare(request, config)
    if problem is not None:
        return problem
    code, output = _upstream(request, "train_video.py", file, _TRAIN_SECONDS)
    losses = [float(loss) for loss in _LOSS.findall(output)]
    saved = sorted(folder.glob("saved/*/*/mp_rank_00_model_states.pt"))
    if code != 0:
        return failed(_named(output, code))
    if not saved:
        return failed(f"train_video.py ended with code 0 and saved nothing: {last_error(output)}")
    shown = ", ".join(f"{loss:.4f}" for loss in losses[:4]) or "not shown"
    where = f"your train_video.py on the {plan['device'].upper()}"
    finding = f"{plan['steps']} steps of {where}, shrunk: loss {shown}"
    if plan["sample"] is None:
        return passed(f"{finding}; evaluated and saved")
    shutil.copytree(saved[-1].parents[1], folder / "saved-for-sampling")
    file, _ = _written(request, "sample.yaml", plan["sample"])
    code, output = _upstream(request, "sample_video.py", file, _SAMPLE_SECONDS)
    videos = list(folder.glob("samples/**/*.mp4")) + list(folder.glob("samples/**/latent.pt"))
    if code != 0 or not videos:
        return failed(f"{finding}; sample_video.py: {_named(output, code)}")
    return passed(f"{finding}; evaluated, saved, and sampled from the checkpoint ({videos[0].suffix[1:]})")


def _written(request: ProbeRequest, name: str, config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Write a config of the shrunk run, with this folder's paths; return the file and what is in it."""
    text = json.dumps(config, indent=1).replace(request.inputs["sat"]["run"]["placeholder"], str(request.workdir))
    file = request.workdir / name
    file.write_text(text, encoding="utf-8")  # JSON is YAML
    return file, json.loads(text)


def _prepare(request: ProbeRequest, config: dict[str, Any]) -> ProbeOutcome | None:
    """Make weights and data of the shrunk shape; return what went wrong."""
    folder, facts = request.workdir, request.inputs["sat"]
    asked = {
        "captions": facts["captions"] or ["a boat on a river"], "prompt": (facts["captions"] or ["a boat"])[0],
        "vae": config.get("model", {}).get("first_stage_config"),
    }  # fmt: skip
    (folder / "prepare.json").write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, str(_HERE / "_sat_prepare.py"), facts["folder"], str(folder / "prepare.json")]
    done = run_program(command, _PREPARE_SECONDS, cwd=folder)
    if done.returncode:
        return failed(f"a VAE of your config's shape can't be made: {last_error(done.stderr)}")
    for part in ("videos", "labels"):
        (folder / "clips" / part).mkdir(parents=True)
    own = (facts.get("clips") or {}).get("paths") or []
    for number, path in enumerate(own[:2]):
        caption = Path(path.replace(".mp4", ".txt").replace("videos", "labels"))
        os.symlink(path, folder / "clips" / "videos" / f"{number}.mp4")
        words = caption.read_text(encoding="utf-8", errors="replace") if caption.is_file() else "a boat\n"
        (folder / "clips" / "labels" / f"{number}.txt").write_text(words.strip() or "a boat", encoding="utf-8")
    for number in range(len(own[:2]), 2):
        _clips.write_clip(folder / "clips" / "videos" / f"{number}.mp4", *_SIZE)
        (folder / "clips" / "labels" / f"{number}.txt").write_text("a boat on a river\n", encoding="utf-8")
    return None


def _upstream(request: ProbeRequest, entry: str, file: Path, seconds: float) -> tuple[int, str]:
    """Run an entry point; return its exit code (124 after `seconds`) and what it printed."""
    facts = request.inputs["sat"]
    command = [
        sys.executable, str(_HERE / "_sat_driver.py"), facts["run"]["device"], str(Path(facts["folder"], entry)),
        "--base", str(file), "--seed", "42",
    ]  # fmt: skip
    env = dict(os.environ) | {
        "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WANDB_MODE": "disabled",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"),
    }  # fmt: skip
    with (request.workdir / f"{entry}.log").open("w+b") as log:
        code = run_program(
            command, seconds, env=env, cwd=request.workdir, stdout=log, stderr=subprocess.STDOUT
        ).returncode
        log.seek(0)
        output = log.read().decode("utf-8", errors="replace")
    print(output[-20000:])
    return code, output


def _named(output: str, code: int) -> str:
    """Return the error in one line, with the line of the user's code that raised it."""
    output = re.sub(r"^\[rank\d+\]: ?", "", output, flags=re.MULTILINE)
    where = re.findall(r'File "([^"]+)", line (\d+), in', output)
    own = [
        f"{os.path.basename(path)}:{line}"
        for path, line in where
        if "site-packages" not in path and "/lib/python" not in path
    ]
    error = last_error(output) if code != 124 else "no end in time"
    return f"{error} ({own[-1]})" if own else f"{error} (exit code {code})"

"""The GPU proof: what a machine with its own torch has to show, in one report. See package/pack_gpu_proof.py."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.doctor.command import show_check
from cogvideo_sat_env.doctor.runner import Conditions, Doctor, Hardware

# What needs a GPU, and before it, what shows whether a failure is the GPU's: the same work on the CPU.
CHECKS = (
    "hardware.limits", "hardware.gpu", "hardware.architectures", "hardware.memory",
    "toolchain.compiler", "toolchain.nvcc", "toolchain.extensions-dir", "toolchain.extension",
    "toolchain.fused-ema-adam", "video.decord", "video.bridge", "data.webdataset", "model.transformer", "model.lora",
    "model.gpu", "training.zero2", "training.checkpoint", "training.lora", "training.two-processes", "training.gpu",
    "lora.safetensors", "lora.export", "network.p2p", "network.nccl",
)  # fmt: skip
_NEEDED = ("torch", "numpy", "triton")  # the machine's own; torch brings triton where it can use a GPU
CLIP = Path("tests", "gpu", "clip.mp4")
STAND_INS = Path(__file__).with_name("stand_ins")
REPORT = "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; returns the exit code: 0 when checks ran on a GPU and nothing failed (errors.EXIT_CODES)."""
    return run("gpu-proof", lambda: _command(arguments))


def _command(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="run", description=__doc__)
    parser.add_argument("home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("folder", type=Path, nargs="?", help="where report.txt and report.json go")
    parsed = parser.parse_args(arguments)
    folder = (parsed.folder or parsed.home).absolute()
    return prove(parsed.home, folder)


def prove(home: Path, folder: Path, hardware: Hardware | None = None) -> int:
    """Run CHECKS with this Python; write report.txt and report.json into `folder`; return 0 when all is proven, else 1.

    `home` holds the clip to decode. Raises MissingToolError, naming all, when modules of the machine's own are missing,
    InputError for a folder that can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("txt", "json"):
            (folder / f"{REPORT}.{suffix}").unlink(missing_ok=True)  # an older one would be taken for this run's
        (folder / f"{REPORT}.txt").touch()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a folder for the report", "./run FOLDER") from error
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingToolError(
            f"{sys.executable} has no {', no '.join(missing)}: these must be the machine's own; nothing was started",
            "name the Python that has torch: PYTHON=/path/to/python ./run, after `module load` or inside the container",
        )
    stand_ins = [path.stem for path in sorted(STAND_INS.glob("*.py")) if _origin(path.stem) == path]
    sys.argv[0] = (
        f"PYTHON={shlex.quote(sys.executable)} {shlex.quote(str(home / 'run'))} satenv"  # what remedies tell to type
    )
    options = {"video.clip": str(home / CLIP)}
    doctor = Doctor(Path(sys.prefix), Conditions(python=Path(sys.executable), hardware=hardware, options=options))
    report = doctor.run("gpu", only=CHECKS, on_check=show_check)
    ran = [result.id for result in report.results if result.level == "gpu" and result.status != "not_run"]
    notes = [f"{len(ran)} checks ran on a GPU" if ran else "NO CHECK RAN ON A GPU: nothing is proven about one"]
    if stand_ins:
        notes.append(f"stand-ins, which do nothing: {', '.join(stand_ins)} (SAT imports them, no check uses them)")
    text = "".join([report.to_text(width=100), "\n", *(f"{note}\n" for note in notes)])
    proof = {"proven": report.ok and bool(ran), "ran_on_gpu": ran, "stand_ins": stand_ins}
    content = report.to_json() | {"proof": proof}
    (folder / f"{REPORT}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / f"{REPORT}.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    print(f"written: {folder / REPORT}.txt and .json")
    return report.exit_code if ran else 1


def _origin(module: str) -> Path | None:
    """Return the file that a module would be imported from."""
    spec = find_spec(module)
    return Path(spec.origin) if spec is not None and spec.origin else None


if __name__ == "__main__":
    sys.exit(main())

"""Runs an entry point of the checkout in the environment, as upstream's scripts do; without a GPU, on the CPU.

Upstream's training refuses a machine without a GPU. For models that are small enough (a trial of one's data and
configs) its CUDA calls are answered by the CPU, and what needs CUDA is replaced in one more YAML, which is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.doctor import activated_env
from cogvideo_sat_env.doctor.gpus import Hardware, NvidiaSmi
from cogvideo_sat_env.doctor.run_checks import PROBES
from cogvideo_sat_env.doctor.sat import checkout
from cogvideo_sat_env.doctor.sat.examine import ENTRIES


def run(prefix: Path, folder: Path, entry: str, arguments: Sequence[str], hardware: Hardware | None = None) -> int:
    """Run `entry` of the checkout with `arguments` in sat/, its output unchanged; return its exit code.

    Raises InputError for a folder or entry point that isn't there.
    """
    found = checkout.find(folder)
    program = found.folder / entry
    if not program.is_file():
        raise InputError(f"{program}: no such file; expected an entry point of the checkout", f"e.g. {ENTRIES[0]}")
    on_cpu = not (hardware or NvidiaSmi()).gpu_facts().gpus
    with scratch_folder("satenv-sat-") as name:
        active = activated_env.capture(prefix, Path(name))
        env = active.env | {
            key: os.environ.get(key, value)
            for key, value in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
        }
        words = list(arguments)
        if on_cpu and entry in ENTRIES:
            extra = Path(name, "cpu.yaml")
            extra.write_text(yaml.safe_dump(cpu_settings(entry == ENTRIES[0]), sort_keys=False), encoding="utf-8")
            words = with_base(words, extra)
            print(f"No GPU: on the CPU, with\n{extra.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
        driver = str(PROBES / "_sat_driver.py")
        command = [str(prefix / "bin" / "python"), "-s", driver, "cpu" if on_cpu else "gpu", str(program), *words]
        return subprocess.run(command, env=env, cwd=found.folder, check=False).returncode


def cpu_settings(training: bool) -> dict[str, Any]:
    """Return the YAML that comes last on a CPU: no NCCL, no fp16, an optimizer that isn't compiled with nvcc."""
    args: dict[str, Any] = {"distributed_backend": "gloo", "device": "cpu"}
    if not training:
        return {"args": args | {"bf16": True, "fp16": False}}
    return {
        "args": args | {"local_rank": "cpu"},  # upstream wants it equal to the device
        "deepspeed": {
            "bf16": {"enabled": True}, "fp16": {"enabled": False},
            "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
        },
    }  # fmt: skip


def with_base(words: Sequence[str], extra: Path) -> list[str]:
    """Return the arguments with `extra` as the last YAML of --base. Raises InputError when there is no --base."""
    if "--base" not in words:
        raise InputError("no --base among the arguments; upstream reads its YAMLs from there", "--base CONFIG CONFIG")
    at = words.index("--base") + 1
    while at < len(words) and not words[at].startswith("--"):
        at += 1
    return [*words[:at], str(extra), *words[at:]]

"""Several processes: what a host has, to be compared with the others, and training over all ranks together."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from . import _train
from ._prefix import installed
from ._probe import ProbeOutcome, ProbeRequest, passed
from .toolchain import torch_cuda

# Distributions whose Python code is compared byte by byte: small, and where a hand has most often fixed something.
_BYTES = ("SwissArmyTransformer", "deepspeed", "webdataset")


def facts(request: ProbeRequest) -> ProbeOutcome:
    """Return this host's versions, drivers and hashes; nothing is imported."""
    found = {**installed(), "python": platform.python_version()}
    machine: dict[str, Any] = {
        "driver": request.inputs["gpu"]["driver"],
        "gpus": [item["name"] for item in request.inputs["gpu"]["gpus"]],
        "kernel": platform.release(),
        "glibc": " ".join(platform.libc_ver()),
        "processor": platform.machine(),
    }
    receipt = request.inputs["receipt"] or {}
    hashes = {f"files of {name}": _hash(name) for name in _BYTES}
    if receipt.get("fingerprint"):
        hashes["receipt"] = receipt["fingerprint"]
    variables = {name: os.environ.get(name) for name in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "CUDA_HOME")}
    try:
        cuda = torch_cuda()
    except ModuleNotFoundError:
        cuda = None
    return passed(
        f"{len(found)} distributions", versions=found, hashes=hashes, machine=machine, variables=variables,
        torch_cuda=cuda, prefix=sys.prefix,
    )  # fmt: skip


def _hash(name: str) -> str | None:
    """Return one hash of all Python files of a distribution, None when it is not installed."""
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError:
        return None
    digest = hashlib.sha256()
    for file in sorted(files, key=str):
        if file.suffix != ".py":
            continue
        path = Path(str(file.locate()))
        digest.update(f"{file}\n".encode())
        digest.update(path.read_bytes() if path.is_file() else b"missing")
    return digest.hexdigest()


def training(request: ProbeRequest) -> ProbeOutcome:
    """Train a few ZeRO-2 steps as one rank of all; the options say which."""
    options = request.options
    device = options["fleet.device"]
    for name, value in (("RANK", "rank"), ("WORLD_SIZE", "ranks"), ("LOCAL_RANK", "local_rank"),
                        ("MASTER_ADDR", "address"), ("MASTER_PORT", "port")):  # fmt: skip
        os.environ[name] = str(options[f"fleet.{value}"])
    if device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    record = _train.train(request.workdir, device=device)
    return passed("trained", losses=record["losses"], digest=record["digest"], device=device)

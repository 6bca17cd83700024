"""Hardware: driver, GPUs, and whether this torch can use them."""

from __future__ import annotations

import re
from typing import Any

from ._probe import Outcome, Request, failed, not_run, one_line, passed, warning
from .toolchain import torch_cuda

# Lowest Linux driver for each CUDA toolkit. Source: NVIDIA CUDA Toolkit Release Notes, tables "CUDA Toolkit and
# Minimum Required Driver Version for CUDA Minor Version Compatibility" and "CUDA Toolkit and Corresponding Driver
# Versions". With a driver between the two, CUDA 12.x programs run by minor version compatibility: compiled kernels
# do, kernels that are compiled from PTX at run time don't.
MINOR_COMPATIBLE = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580,)}
NATIVE = {
    (11, 8): (520, 61, 5),
    (12, 0): (525, 60, 13),
    (12, 1): (530, 30, 2),
    (12, 2): (535, 54, 3),
    (12, 3): (545, 23, 6),
    (12, 4): (550, 54, 14),
    (12, 5): (555, 42, 2),
    (12, 6): (560, 28, 3),
    (12, 8): (570, 26),
    (12, 9): (575, 51, 3),
    (13, 0): (580, 65, 6),
}


def gpu(request: Request) -> Outcome:
    """Compare the driver and the GPUs with torch's build, then ask torch itself."""
    facts = request.inputs["gpu"]
    cuda = torch_cuda()
    if not facts["gpus"]:
        return judge(facts, {"cuda": cuda})
    import torch

    try:
        available = torch.cuda.is_available()
        state = {"cuda": cuda, "available": available, "count": torch.cuda.device_count(), "error": None}
        if available:
            ones = torch.ones(256, 256, device="cuda")
            state["sum"] = float((ones @ ones).sum())
            state["architectures"] = torch.cuda.get_arch_list()
    except Exception as error:  # torch raises RuntimeError and its own kinds for a GPU that can't be used
        state = {"cuda": cuda, "available": False, "count": 0, "error": one_line(error)}
    return judge(facts, state)


def judge(facts: dict[str, Any], torch: dict[str, Any]) -> Outcome:
    """Return the outcome for a machine (GpuFacts as a dict) and what torch says about itself.

    `torch`: cuda, the version that it was built for or None; with a GPU also available, count, error and, when it
    could compute, sum (of a product of matrices of ones, 256 * 256 * 256).
    """
    gpus, driver, cuda = facts["gpus"], facts["driver"], torch["cuda"]
    details = {"driver": driver, "gpus": gpus, "torch_cuda": cuda}
    if not gpus:
        if facts["problem"]:
            return warning(f"{facts['problem']}", "ask the machine's administrator; nvidia-smi must list the GPUs",
                           **details)
        build = f"torch is built for CUDA {cuda}" if cuda else "torch is a CPU build"
        return not_run(f"not run: no GPU ({build})", **details)
    memory = " + ".join(f"{item['memory_mib'] / 1024:.0f}" for item in gpus[:8])
    seen = f"driver {driver}, {len(gpus)} GPU ({gpus[0]['name']}; {memory} GiB)"
    if cuda is None:
        return failed(f"{seen}, but torch is a CPU build", ledger=("torch-cuda-build",), **details)
    wanted = tuple(int(part) for part in cuda.split(".")[:2])
    have = tuple(int(part) for part in re.findall(r"\d+", driver or "0"))
    least = MINOR_COMPATIBLE.get(wanted[0])
    native = NATIVE.get((wanted[0], wanted[-1]))
    if least and have < least:
        return failed(
            f"{seen}: too old for torch's CUDA {cuda}, which needs {version(least)} or newer",
            f"install driver {version(native or least)} or newer, or a torch for an older CUDA", **details,
        )  # fmt: skip
    if torch.get("error"):
        return failed(f"{seen}; torch can't use it: {torch['error']}", _BROKEN, **details)
    if not torch["available"]:
        return failed(f"{seen}, but torch.cuda.is_available() is False", _BROKEN, **details)
    if torch.get("sum") != 256.0**3:
        wrong = f"{seen}; a matrix product on the GPU gives {torch.get('sum')}, expected {256.0**3}"
        return failed(wrong, "have the GPU examined: nvidia-smi -q -d ECC,PAGE_RETIREMENT", **details)
    if native and have < native:
        return warning(
            f"{seen}; works by CUDA's minor version compatibility, CUDA {cuda} has driver {version(native)}: kernels"
            " that are compiled at run time (triton, PTX) may fail",
            f"install driver {version(native)} or newer", **details,
        )  # fmt: skip
    if torch["count"] != len(gpus):
        return warning(f"{seen}; torch sees {torch['count']} of them (CUDA_VISIBLE_DEVICES?)", None, **details)
    return passed(f"{seen}; torch for CUDA {cuda} computes on it", **details)


_BROKEN = "python -c 'import torch; torch.cuda.init()' shows the reason; check CUDA_VISIBLE_DEVICES and the driver"


def version(parts: tuple[int, ...]) -> str:
    """Return a driver version as NVIDIA writes it: (525, 60, 13) as "525.60.13"."""
    return ".".join([str(parts[0]), *(f"{part:02d}" for part in parts[1:])])

"""Hardware: driver, GPUs, their architectures and memory, and whether this torch can use them."""

from __future__ import annotations

import os
import re
import resource
from typing import Any

from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, one_line, passed, warning
from .toolchain import torch_cuda


def gpu(request: ProbeRequest) -> ProbeOutcome:
    """Compare the driver and the GPUs with torch's build, then ask torch itself."""
    facts = request.inputs["gpu"]
    cuda = torch_cuda()
    drivers = request.inputs["drivers"]
    if not facts["gpus"] or facts["stuck"]:
        return judge(facts, {"cuda": cuda}, drivers)
    import torch

    try:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        available = torch.cuda.is_available()
        state = {"cuda": cuda, "available": available, "count": torch.cuda.device_count(), "error": None,
                 "visible": visible}  # fmt: skip
        if available:
            ones = torch.ones(256, 256, device="cuda")
            state["sum"] = float((ones @ ones).sum())
    except Exception as error:  # torch raises RuntimeError and its own kinds for a GPU that can't be used
        state = {"cuda": cuda, "available": False, "count": 0, "error": one_line(error)}
    return judge(facts, state, drivers)


def judge(facts: dict[str, Any], torch: dict[str, Any], drivers: dict[str, Any]) -> ProbeOutcome:
    """Return the outcome for a machine (GpuFacts as a dict) and what torch says about itself.

    `torch`: cuda, the version that it was built for or None; with a GPU also available, count, error and, when it
    could compute, sum (of a product of matrices of ones, 256 * 256 * 256). `drivers`: data/drivers.yml.
    """
    gpus, driver, cuda = facts["gpus"], facts["driver"], torch["cuda"]
    details = {"driver": driver, "gpus": gpus, "torch_cuda": cuda}
    if facts["stuck"]:
        return failed(facts["problem"], _STUCK, **details)
    if not gpus:
        if facts["problem"]:
            return warning(
                f"{facts['problem']}", "ask the machine's administrator; nvidia-smi must list the GPUs", **details
            )
        build = f"torch is built for CUDA {cuda}" if cuda else "torch is a CPU build"
        return not_run(f"not run: no GPU ({build})", **details)
    memory = " + ".join(f"{item['memory_mib'] / 1024:.0f}" for item in gpus[:8])
    seen = f"driver {driver}, {len(gpus)} GPU ({gpus[0]['name']}; {memory} GiB)"
    if cuda is None:
        return failed(f"{seen}, but torch is a CPU build", ledger=("torch-cuda-build",), **details)
    have = _numbers(driver or "0")
    major, minor = cuda.split(".")[:2]
    least = drivers["minor_compatible"].get(major)
    native = drivers["native"].get(f"{major}.{minor}")
    if least and have < _numbers(least):
        return failed(
            f"{seen}: too old for torch's CUDA {cuda}, which needs {least} or newer",
            f"install driver {native or least} or newer, or a torch for an older CUDA", **details,
        )  # fmt: skip
    if torch.get("error"):
        return failed(f"{seen}; torch can't use it: {torch['error']}", _BROKEN, **details)
    if not torch["available"] and torch.get("visible") in ("", "-1"):
        return warning(f"{seen}, hidden by CUDA_VISIBLE_DEVICES={torch['visible']!r}", _VISIBLE, **details)
    if not torch["available"]:
        return failed(f"{seen}, but torch.cuda.is_available() is False", _BROKEN, **details)
    if torch.get("sum") != 256.0**3:
        wrong = f"{seen}; a matrix product on the GPU gives {torch.get('sum')}, expected {256.0**3}"
        return failed(wrong, "have the GPU examined: nvidia-smi -q -d ECC,PAGE_RETIREMENT", **details)
    if native and have < _numbers(native):
        return warning(
            f"{seen}; works by CUDA's minor version compatibility, CUDA {cuda} has driver {native}: kernels"
            " that are compiled at run time (triton, PTX) may fail",
            f"install driver {native} or newer", **details,
        )  # fmt: skip
    if torch["count"] != len(gpus):
        return warning(f"{seen}; torch sees {torch['count']} of them (CUDA_VISIBLE_DEVICES?)", None, **details)
    return passed(f"{seen}; torch for CUDA {cuda} computes on it", **details)


_VISIBLE = "unset CUDA_VISIBLE_DEVICES"
_STUCK = "use another node, and have the administrator reset the GPU driver (nvidia-smi --gpu-reset, or a reboot)"
_BROKEN = "python -c 'import torch; torch.cuda.init()' shows the reason; check CUDA_VISIBLE_DEVICES and the driver"


def limits(request: ProbeRequest) -> ProbeOutcome:
    """The shell's limits leave room for what imports and training need."""
    problems, remedies, none, seen = [], [], False, {}
    has_gpu = bool(request.inputs["gpu"]["gpus"])
    for letter, name, unit, least, enough, why in _LIMITS:
        soft, hard = resource.getrlimit(getattr(resource, name))
        seen[name] = None if soft == resource.RLIM_INFINITY else soft
        if soft == resource.RLIM_INFINITY or (soft >= enough and not (has_gpu and name == "RLIMIT_AS")):
            continue
        if request.data_only and letter in "ft":
            continue
        problems.append(f"ulimit -{letter} is {soft // unit:,}: {why}")
        none = none or soft < least
        if hard == resource.RLIM_INFINITY or hard > soft:
            remedies.append(f"ulimit -S -{letter} {'unlimited' if hard == resource.RLIM_INFINITY else hard // unit}")
        else:
            remedies.append(f"have the hard limit of ulimit -{letter} raised (batch system, limits.conf)")
    if problems:
        return (failed if none else warning)("; ".join(problems), "; ".join(remedies), limits=seen)
    return passed("no limit of the shell is in the way", limits=seen)


# ulimit's letter, its name, bytes of its unit; below the first number nothing works, above the second all does.
# Measured: `import sat` takes 6.5 GB of address space, and CUDA as much again as all GPUs have memory.
_LIMITS = (
    ("v", "RLIMIT_AS", 1024, 6 * 2**30, 64 * 2**30, "torch and its CUDA libraries alone take 6.5 GB of address space"),
    ("d", "RLIMIT_DATA", 1024, 3 * 2**30, 32 * 2**30, "imports alone take 2 GB"),
    ("n", "RLIMIT_NOFILE", 1, 128, 512, "each worker of a DataLoader and each connection takes open files"),
    ("f", "RLIMIT_FSIZE", 1024, 64 * 2**20, 30 * 2**30, "a checkpoint can't be written (2B: 4 GB, 5B: 12 GB and more)"),
    ("t", "RLIMIT_CPU", 1, 300, 24 * 3600, "a process is killed after so many seconds of CPU time"),
    ("s", "RLIMIT_STACK", 1024, 256 * 2**10, 2**20, "threads crash that need a larger stack"),
)


def architectures(request: ProbeRequest) -> ProbeOutcome:
    """Hold each GPU's compute capability against the architectures that torch was compiled for."""
    import torch

    gpus = request.inputs["gpu"]["gpus"]
    built = list(torch.cuda.get_arch_list())
    if not built:
        return failed("torch tells no architectures: it doesn't see the GPU", _BROKEN)
    details: dict[str, Any] = {"built": built, "gpus": {item["name"]: item["compute_capability"] for item in gpus}}
    unknown = [item["name"] for item in gpus if not item["compute_capability"]]
    if unknown:
        finding = f"nvidia-smi doesn't tell the compute capability of {unknown[0]}"
        return warning(finding, "update the driver", **details)
    ways = {item["compute_capability"]: runs_on(item["compute_capability"], built) for item in gpus}
    dead = [item for item in gpus if ways[item["compute_capability"]] is None]
    if dead:
        name, capability = dead[0]["name"], dead[0]["compute_capability"]
        return failed(
            f"{name} has compute capability {capability}; this torch was compiled for {', '.join(built)}: no kernel"
            " image is available",
            _other_torch(capability), **details,
        )  # fmt: skip
    by_ptx = [item for item in gpus if ways[item["compute_capability"]] == "ptx"]
    if by_ptx:
        name, capability = by_ptx[0]["name"], by_ptx[0]["compute_capability"]
        return warning(
            f"{name} (compute capability {capability}) runs torch's kernels only from PTX, compiled at each first use:"
            " slow starts, and the driver must be as new as torch's CUDA",
            _other_torch(capability), **details,
        )  # fmt: skip
    wide = [item for item in gpus if int(item["compute_capability"].partition(".")[0]) >= 10]
    if wide:
        name, capability = wide[0]["name"], wide[0]["compute_capability"]
        return warning(
            f"torch has kernels for {name} ({capability}), but SAT 0.4.12 asks nvcc for 'compute_1.' there (it reads"
            " two characters of the capability): FusedEmaAdam can't be compiled",
            "in the training configuration, optimizer: {type: AdamW, params: {..., torch_adam: true}} instead of"
            " sat.ops.FusedEmaAdam",
            **details,
        )
    shown = ", ".join(sorted(ways))
    return passed(f"torch has kernels for compute capability {shown} (built for {', '.join(built)})", **details)


def runs_on(capability: str, built: list[str]) -> str | None:
    """Return how a GPU of `capability` ("9.0") runs code built for `built` ("sm_90", "compute_90").

    By "kernel", by "ptx" (compiled by the driver), or None.

    Kernels run on the same major version and an equal or higher minor one; with the suffix a on exactly that
    architecture, with f on its family. PTX without a suffix runs on all that is newer. Source: CUDA C++ Programming
    Guide, "Compute Capabilities" and "Application Compatibility".
    """
    major, minor = (int(part) for part in capability.split("."))
    way = None
    for item in built:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", item)
        if found is None:
            continue
        kind, own, least, suffix = found.group(1), int(found.group(2)), int(found.group(3)), found.group(4)
        exact = (own, least) == (major, minor)
        if kind == "sm" and own == major and (exact if suffix == "a" else least <= minor):
            return "kernel"
        if kind == "compute" and (exact if suffix else (own, least) <= (major, minor)):
            way = "ptx"
    return way


def _other_torch(capability: str) -> str:
    major = int(capability.partition(".")[0])
    if major >= 10:  # Blackwell: CUDA 12.8's nvcc is the first that knows it
        return "install a torch built for CUDA 12.8 or newer: {satenv} create (its lock has one)"
    if major < 7:
        return "this GPU is too old for current torch builds; use a newer one"
    return f"install a torch whose get_arch_list() has sm_{capability.replace('.', '')}"


def memory(request: ProbeRequest) -> ProbeOutcome:
    """Say which of the four recipes fit into the GPUs' memory, by the calculator of `satenv plan`."""
    gpus, verdicts = request.inputs["gpu"]["gpus"], request.inputs["plans"]
    least = min(item["memory_mib"] for item in gpus)
    if least == 0:
        return warning(f"nvidia-smi doesn't tell the memory of {gpus[0]['name']}", "{satenv} plan shows what is needed")
    groups: dict[str, list[str]] = {}
    for recipe, verdict in verdicts.items():
        groups.setdefault(verdict, []).append(recipe)
    summary = "; ".join(f"{verdict}: {', '.join(recipes)}" for verdict, recipes in groups.items())
    finding = f"{len(gpus)} GPU of at least {least / 1024:.0f} GiB, 49 frames of 480x720, ZeRO-2 (reckoned): {summary}"
    if set(verdicts.values()) == {"does not fit"}:
        return warning(
            finding, "{satenv} plan --frames 17 --height 256 --width 384 (or another size that fits)", verdicts=verdicts
        )
    return passed(finding, verdicts=verdicts)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", str(version)))

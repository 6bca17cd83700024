"""Compute capability against torch's architectures, and memory against the recipes, on machines that we don't have."""

from __future__ import annotations

import pytest

from cogvideo_sat_env.doctor.checks.hardware import runs_on
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts

from .conftest import Machine

# torch 2.10.0 from PyPI for CUDA 12.8, and an older one for CUDA 12.4
NEW = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
OLD = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


def machine(name: str, capability: str, mib: int = 81559, count: int = 1) -> Machine:
    return Machine(GpuFacts("580.65.06", tuple(Gpu(index, name, mib, capability) for index in range(count))))


def torch_for(prefix, *built: str) -> None:
    prefix.file("lib/site/torch/__init__.py", "from . import cuda\n")
    prefix.file("lib/site/torch/version.py", "cuda = '12.9'\n")
    prefix.file("lib/site/torch/cuda.py", f"def get_arch_list(): return {list(built)}\n")


@pytest.mark.parametrize(
    ("capability", "built", "way"),
    [
        ("9.0", NEW, "kernel"), ("8.9", NEW, "kernel"), ("8.7", ["sm_80"], "kernel"), ("8.0", ["sm_86"], None),
        ("10.0", NEW, "kernel"), ("10.3", NEW, "kernel"), ("12.0", NEW, "kernel"), ("12.1", NEW, "kernel"),
        ("10.0", OLD, None), ("12.0", OLD, None), ("11.0", NEW, None), ("12.0", [*OLD, "compute_90"], "ptx"),
        ("12.0", [*OLD, "compute_90a"], None), ("9.0", ["sm_90a"], "kernel"), ("10.3", ["sm_100a"], None),
        ("10.3", ["sm_100f"], "kernel"), ("6.1", NEW, None), ("7.0", ["compute_75"], None), ("9.0", ["gfx942"], None),
    ],
)  # fmt: skip
def test_how_a_gpu_runs_what_was_built(capability, built, way):
    assert runs_on(capability, built) == way


def test_a_gpu_with_kernels_passes(prefix):
    torch_for(prefix, *NEW)
    result = prefix.check("hardware.architectures", machine=machine("NVIDIA H100", "9.0"))
    assert result.status == "passed" and "9.0" in result.finding


def test_blackwell_with_an_older_torch_fails_and_says_which_torch(prefix):
    torch_for(prefix, *OLD)
    result = prefix.check("hardware.architectures", machine=machine("NVIDIA GeForce RTX 5090", "12.0"))
    assert result.status == "failed" and "no kernel image is available" in result.finding
    assert "CUDA 12.8 or newer" in result.remedy


def test_blackwell_by_ptx_is_told(prefix):
    torch_for(prefix, *OLD, "compute_90")
    result = prefix.check("hardware.architectures", machine=machine("NVIDIA B200", "10.0"))
    assert result.status == "warning" and "only from PTX" in result.finding


def test_blackwell_with_kernels_is_told_that_sat_cannot_compile_its_optimizer(prefix):
    """sat/ops/ops_builder/builder.py makes compute_1. of 10.0 and 12.0."""
    torch_for(prefix, *NEW)
    result = prefix.check("hardware.architectures", machine=machine("NVIDIA B200", "10.0"))
    assert result.status == "warning" and "compute_1." in result.finding and "AdamW" in result.remedy


def test_an_unknown_capability_is_told(prefix):
    torch_for(prefix, *NEW)
    result = prefix.check("hardware.architectures", machine=machine("NVIDIA GPU", ""))
    assert result.status == "warning" and "doesn't tell the compute capability" in result.finding


def test_no_gpu_no_run(prefix):
    result = prefix.check("hardware.architectures")
    assert (result.status, result.finding) == ("not_run", "not run: no GPU")


@pytest.mark.parametrize(
    ("mib", "count", "status", "words"),
    [
        (143771, 8, "passed", "fits: 2b lora, 2b full, 5b lora, 5b full"),
        (24564, 1, "warning", "does not fit: 2b lora"),
        (81559, 8, "passed", "may fit: 5b full"),
        (0, 1, "warning", "doesn't tell the memory"),
    ],
)
def test_memory_is_held_against_the_recipes(prefix, mib, count, status, words):
    result = prefix.check("hardware.memory", machine=machine("some GPU", "9.0", mib, count))
    assert result.status == status and words in result.finding, result.finding

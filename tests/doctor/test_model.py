"""model.gpu on GPUs that we don't have: an older one trains in fp16, and is told how."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor.catalogue import CHECKS
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts
from cogvideo_sat_env.doctor.runner import PROBES, Conditions, Doctor

from .conftest import FakePrefix, Machine

V100 = Gpu(0, "Tesla V100-SXM2-32GB", 32768, "7.0")
# as much of torch as the check itself asks; what isn't native fails as cuBLAS does on such a GPU
TORCH = """
from contextlib import nullcontext as no_grad
bfloat16, float16, float32 = "bf16", "fp16", "fp32"
def equal(one, other): return one.value == other.value
"""
CUDA = """
def is_bf16_supported(including_emulation=True): return including_emulation or {native}
def get_device_name(): return "Tesla V100-SXM2-32GB"
"""
TINY = """
POSITIONS = ("sinusoidal", "rotary")
LACKING = {lacking}
class Number:
    grad = None
    def __init__(self, value): self.value = value
    def float(self): return self
    cpu = norm = detach = backward = float
    def flip(self, axis): return Number(-self.value)
    def __sub__(self, other): return Number(self.value - other.value)
    def __truediv__(self, other): return Number(abs(self.value) / abs(other.value))
    def __float__(self): return self.value * 1.0
class Model:
    kind = "fp32"
    def to(self, where):
        self.kind = where if where != "cuda" else self.kind
        return self
    def zero_grad(self, set_to_none): pass
    def named_parameters(self): return []
    def predict(self, found):
        if self.kind in LACKING:
            raise RuntimeError(LACKING[self.kind])
        return Number(2 + found["latents"].value)
def prepare_alone(): pass
def build(folder, positions): return Model()
def batch(): return {{"latents": Number(1.0)}}
def loss_of(model, found): return model.predict(found)
"""
REFUSED = "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"
UNKNOWN = "\"baddbmm\" not implemented for 'Half'"


def examine(prefix: FakePrefix, folder: Path, *, native: bool = False, **lacking: str):
    prefix.file("lib/site/torch/__init__.py", f"from . import cuda\n{TORCH}")
    prefix.file("lib/site/torch/cuda.py", CUDA.format(native=native))
    shutil.copytree(PROBES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "_tiny.py").write_text(TINY.format(lacking=lacking))
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    specs = [spec for spec in CHECKS if spec.id == "model.gpu"]
    machine = Machine(GpuFacts("575.57.08", (V100,)))
    doctor = Doctor(prefix.root, Conditions(hardware=machine, checks=specs, probes=folder, environ=environ))
    (result,) = doctor.run("full", only=["model.gpu"]).results
    return result


def test_a_gpu_without_bf16_is_a_warning_that_says_what_to_set(prefix, tmp_path):
    result = examine(prefix, tmp_path / "probes", bf16=REFUSED)
    assert result.status == "warning", result.details
    assert result.finding.startswith("Tesla V100-SXM2-32GB (compute capability below 8.0) has no bf16; a tiny")
    assert "forward and backward in fp32 and fp16" in result.finding
    assert result.remedy == (
        "fp16: {enabled: true}, bf16: {enabled: false} in the deepspeed section of the training configuration"
    )


def test_a_gpu_with_bf16_passes_in_all_three(prefix, tmp_path):
    result = examine(prefix, tmp_path / "probes", native=True)
    assert (result.status, result.remedy) == ("passed", None), result.details
    assert "in fp32 and bf16 and fp16" in result.finding


@pytest.mark.parametrize(
    ("native", "lacking", "words"),
    [
        (False, {"bf16": REFUSED, "fp16": UNKNOWN}, "has no bf16, and no fp16: RuntimeError"),
        (True, {"bf16": REFUSED}, "CUBLAS_STATUS_NOT_SUPPORTED"),  # it must have it: that GPU or torch is broken
        (False, {"fp16": REFUSED}, "CUBLAS_STATUS_NOT_SUPPORTED"),
    ],
)
def test_what_can_not_train_at_all_is_a_failure(prefix, tmp_path, native, lacking, words):
    result = examine(prefix, tmp_path / "probes", native=native, **lacking)
    assert result.status == "failed" and words in result.finding, result.finding

"""Toolchain checks, with compilers that are shell scripts and one real C++ compiler."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor import activation
from cogvideo_sat_env.doctor.checks import toolchain
from cogvideo_sat_env.doctor.checks._probe import Request
from cogvideo_sat_env.doctor.runner import Doctor

from .conftest import Machine

HEADERS = ("cuda_runtime.h", "cusparse.h", "cublas_v2.h", "cusolverDn.h")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")


def torch(prefix, cuda: str | None) -> None:
    prefix.file("lib/site/torch/__init__.py", "raise RuntimeError('must not be imported')")
    prefix.file("lib/site/torch/version.py", f"from typing import Optional\ncuda: Optional[str] = {cuda!r}\n")


def nvcc(prefix, release: str, root: Path | None = None, headers=HEADERS) -> None:
    root = root or prefix.root
    prefix.program("nvcc", f"echo 'Cuda compilation tools, release {release}, V{release}.1'\n", root / "bin")
    (root / "include").mkdir(exist_ok=True)
    for name in headers:
        (root / "include" / name).touch()


def tools(tmp_path, *names: str) -> str:
    """Return a PATH on which, of this machine's programs, there are only these and the shell's."""
    folder = tmp_path / "tools"
    folder.mkdir(exist_ok=True)
    for name in ("env", "sh", "bash", "cat", *names):
        found = shutil.which(name)
        if found and not (folder / name).exists():
            (folder / name).symlink_to(found)
    return str(folder)


@needs_compiler
def test_a_compiler_and_ninja_pass(prefix, tmp_path):
    prefix.program("ninja", "echo 1.13.0\n")
    result = prefix.check("toolchain.compiler", PATH=tools(tmp_path, "c++", "as", "ld"))
    assert result.status == "passed" and "the host's" in result.finding and result.details["own"] is False


def test_no_compiler_fails_with_what_to_install(prefix, tmp_path):
    result = prefix.check("toolchain.compiler", PATH=tools(tmp_path))
    assert result.status == "failed" and "no C++ compiler" in result.finding and "deepspeed_shm_comm" in result.finding
    assert "gxx_linux" in result.remedy


def test_cxx_of_activation_is_taken_and_its_absence_named(prefix):
    result = prefix.check("toolchain.compiler", CXX="x86_64-conda-linux-gnu-c++")
    assert result.status == "failed" and "$CXX names x86_64-conda-linux-gnu-c++, which doesn't exist" in result.finding


def test_a_compiler_that_cannot_compile_fails(prefix):
    prefix.program("c++", "echo 'fatal error: vector: No such file or directory' >&2; exit 1\n")
    result = prefix.check("toolchain.compiler")
    assert result.status == "failed" and "vector: No such file or directory" in result.finding


@needs_compiler
def test_a_missing_ninja_fails(prefix, tmp_path):
    result = prefix.check("toolchain.compiler", PATH=tools(tmp_path, "c++"))
    assert (result.status, result.remedy) == ("failed", "pip install ninja")


@needs_compiler
def test_nvcc_of_torchs_cuda_with_headers_passes(prefix):
    torch(prefix, "12.9")
    nvcc(prefix, "12.9")
    result = prefix.check("toolchain.nvcc")
    assert result.finding == "the environment's nvcc 12.9 = torch's CUDA 12.9; headers found"
    assert result.status == "passed"


def test_the_environments_nvcc_of_another_minor_fails(prefix):
    torch(prefix, "12.9")
    nvcc(prefix, "12.4")
    result = prefix.check("toolchain.nvcc")
    assert result.status == "failed" and "nvcc 12.4" in result.finding and "CUDA 12.9" in result.finding
    assert result.remedy == "mamba install 'cuda-version=12.9' 'cuda-nvcc=12.9'"


def test_the_hosts_nvcc_of_another_version_is_a_warning(prefix, tmp_path):
    torch(prefix, "12.8")
    nvcc(prefix, "13.0", tmp_path / "cuda-13")
    for how in ({"PATH": f"{tmp_path}/cuda-13/bin:/usr/bin:/bin"}, {"CUDA_HOME": f"{tmp_path}/cuda-13"}):
        result = prefix.check("toolchain.nvcc", **how)
        assert result.status == "warning" and "the host's nvcc 13.0" in result.finding
        assert "'cuda-version=12.8'" in result.remedy


@needs_compiler
def test_missing_library_headers_are_named_with_their_packages(prefix):
    torch(prefix, "12.9")
    nvcc(prefix, "12.9", headers=("cuda_runtime.h", "cublas_v2.h"))
    result = prefix.check("toolchain.nvcc")
    assert result.status == "failed" and "doesn't find cusparse.h, cusolverDn.h" in result.finding
    assert result.remedy == "mamba install libcusparse-dev libcusolver-dev 'cuda-version=12.9'"


@needs_compiler
def test_headers_where_the_compiler_looks_count(prefix):
    """The activation script of the environment adds conda's targets/ folder this way."""
    torch(prefix, "12.9")
    nvcc(prefix, "12.9", headers=())
    for name in HEADERS:
        prefix.file(f"targets/x86_64-linux/include/{name}", "")
    assert prefix.check("toolchain.nvcc").status == "failed"
    assert prefix.check("toolchain.nvcc", CPATH=f"{prefix.root}/targets/x86_64-linux/include").status == "passed"


def test_a_cpu_build_needs_no_nvcc(prefix):
    torch(prefix, None)
    result = prefix.check("toolchain.nvcc")
    assert result.status == "not_run" and "FusedEmaAdam" in result.finding


@pytest.mark.parametrize(
    ("gpus", "not_provided", "status"),
    [([], [], "warning"), ([{"name": "H100"}], [], "failed"), ([], ["cuda-nvcc"], "not_run")],
    ids=["no GPU", "GPU", "told by the receipt"],
)
def test_without_nvcc_it_depends_on_receipt_and_gpu(monkeypatch, tmp_path, gpus, not_provided, status):
    """Called in this process: the machine of the test may have an nvcc where torch looks last."""
    monkeypatch.setattr(toolchain, "torch_cuda", lambda: "12.9")
    monkeypatch.setattr(toolchain, "_cuda_home", lambda prefix: None)
    inputs = {"prefix": str(tmp_path), "gpu": {"gpus": gpus}, "not_provided": not_provided}
    outcome = toolchain.nvcc(Request(tmp_path, tmp_path, inputs))
    assert outcome.status == status and "FusedEmaAdam" in outcome.finding


@pytest.mark.parametrize("item", ['"cuda-nvcc"', '{"name": "cuda-nvcc", "spec": "cuda-nvcc"}'], ids=["name", "object"])
def test_the_receipts_list_of_what_is_not_provided_is_read(prefix, tmp_path, item):
    prefix.file("etc/cogvideo-sat-env/receipt.json", f'{{"not_provided": [{item}]}}')
    doctor = Doctor(prefix.root, hardware=Machine(), environ={"PATH": "/usr/bin:/bin"})
    assert doctor.inputs(activation.capture(prefix.root, tmp_path, {}))["not_provided"] == ["cuda-nvcc"]


def test_the_extensions_folder_is_made_and_tried(prefix, tmp_path):
    folder = tmp_path / "extensions"
    result = prefix.check("toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=str(folder))
    assert result.status == "passed" and f"{folder} (TORCH_EXTENSIONS_DIR)" in result.finding
    assert list(folder.iterdir()) == []


def test_without_the_variable_torchs_default_is_tried(prefix):
    result = prefix.check("toolchain.extensions-dir")
    assert f"{prefix.root}/home/.cache/torch_extensions (torch's default)" in result.finding


def test_an_unwritable_extensions_folder_fails(prefix, tmp_path):
    (tmp_path / "file").touch()
    result = prefix.check("toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=str(tmp_path / "file" / "below"))
    assert result.status == "failed" and "can't be written" in result.finding
    assert result.remedy.startswith("export TORCH_EXTENSIONS_DIR=")


def test_a_lock_that_a_dead_compilation_left_is_told(prefix, tmp_path):
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert prefix.check("toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=str(tmp_path)).status == "passed"
    os.utime(lock, (time.time() - 7200,) * 2)
    result = prefix.check("toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert result.status == "warning" and str(lock) in result.finding and result.remedy == f"rm {lock}"

"""Toolchain checks, with compilers that are shell scripts and one real C++ compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor import activated_env
from cogvideo_sat_env.doctor.checks import toolchain
from cogvideo_sat_env.doctor.checks._probe import ProbeRequest
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts
from cogvideo_sat_env.doctor.runner import Conditions, Doctor

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
    assert "apt install g++" in result.remedy and "mamba" not in result.remedy  # in a plain venv
    prefix.file("conda-meta/history", "")
    assert "gxx_linux" in prefix.check("toolchain.compiler", PATH=tools(tmp_path)).remedy
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"source": "wheels"}')
    assert "mamba" not in prefix.check("toolchain.compiler", PATH=tools(tmp_path)).remedy


PATCHED = """
def build_shm_op():
    if shutil.which("c++") is None:
        return None
    return builder.load()
"""


def test_with_a_deepspeed_that_does_without_a_compiler_its_absence_is_a_warning_that_says_what_is_slower(
    prefix, tmp_path
):
    prefix.module("deepspeed/__init__")
    prefix.module("deepspeed/comm/torch", PATCHED)
    result = prefix.check("toolchain.compiler", PATH=tools(tmp_path))
    assert result.status == "warning" and "slower" in result.finding and "apt install g++" in result.remedy
    prefix.module("deepspeed/comm/torch", "def build_shm_op():\n    return builder.load()\n")
    assert prefix.check("toolchain.compiler", PATH=tools(tmp_path)).status == "failed"


@needs_compiler
@pytest.mark.parametrize(
    ("variable", "value"), [("CXX", "c++ -fno-such-flag"), ("CXX", "/opt/gcc/9/bin/g++"), ("CPATH", "BROKEN")]
)
def test_a_variable_that_spoils_the_compiler_is_named(prefix, tmp_path, variable, value):
    prefix.program("ninja", "echo 1.13.0\n")
    if value == "BROKEN":  # another compiler's headers in front
        (tmp_path / "include").mkdir()
        (tmp_path / "include" / "vector").write_text("#error another compiler's\n")
        value = str(tmp_path / "include")
    result = prefix.check("toolchain.compiler", **{variable: value})
    assert result.status == "failed" and result.remedy == f"unset {variable}" and value in result.finding
    assert prefix.check("toolchain.compiler").status == "passed"


@needs_compiler
def test_a_cc_that_is_not_there_is_a_warning_without_a_gpu(prefix):
    prefix.program("ninja", "echo 1.13.0\n")
    result = prefix.check("toolchain.compiler", CC="/opt/gcc/9/bin/gcc")
    assert result.status == "warning" and "triton" in result.finding and result.remedy == "unset CC"


@needs_compiler
@pytest.mark.parametrize(("sysroot", "status"), [("2.17", "passed"), ("99.1", "failed")])
def test_a_sysroot_that_is_newer_than_the_nodes_c_library_fails(prefix, sysroot, status):
    """What DeepSpeed compiles on such a node can't be loaded there."""
    prefix.program("ninja", "echo 1.13.0\n")
    prefix.program("c++", f'exec {shutil.which("c++")} "$@"\n')
    prefix.record("sysroot_linux-64", sysroot, {})
    result = prefix.check("toolchain.compiler")
    assert result.status == status
    if status == "failed":
        assert f"glibc {sysroot} (sysroot), this machine has glibc" in result.finding
        assert "sysroot_linux-64<=" in result.remedy
    prefix.root.joinpath("bin", "c++").unlink()  # the host's compiler builds for the host
    assert prefix.check("toolchain.compiler").status == "passed"


def test_cxx_of_activation_is_taken_and_its_absence_named(prefix):
    result = prefix.check("toolchain.compiler", CXX="x86_64-conda-linux-gnu-c++")
    assert result.status == "failed" and "CXX=x86_64-conda-linux-gnu-c++ names no program" in result.finding


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
    prefix.file("conda-meta/history", "")
    torch(prefix, "12.9")
    nvcc(prefix, "12.4")
    result = prefix.check("toolchain.nvcc")
    assert result.status == "failed" and "nvcc 12.4" in result.finding and "CUDA 12.9" in result.finding
    assert result.remedy == "mamba install 'cuda-version=12.9' 'cuda-nvcc=12.9'"


def test_the_hosts_nvcc_of_another_version_is_a_warning(prefix, tmp_path):
    torch(prefix, "12.8")
    nvcc(prefix, "13.0", tmp_path / "cuda-13")
    prefix.file("conda-meta/history", "")
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
    inputs = {"prefix": str(tmp_path), "gpu": {"gpus": gpus}, "not_provided": not_provided, "conda": True}
    outcome = toolchain.nvcc(ProbeRequest(tmp_path, tmp_path, inputs))
    assert outcome.status == status and "FusedEmaAdam" in outcome.finding


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_a_cuda_home_that_is_not_there_is_named_for_torch_takes_it_all_the_same(prefix, tmp_path, variable):
    """Another nvcc on PATH, of the right version even, is not the one that torch would run."""
    torch(prefix, "12.9")
    nvcc(prefix, "12.9", tmp_path / "cuda")
    on_path = {"PATH": f"{tmp_path}/cuda/bin:/usr/bin:/bin", variable: "/usr/local/cuda-11.8"}
    result = prefix.check("toolchain.nvcc", **on_path)
    assert result.status == "warning" and result.remedy == f"unset {variable}"
    assert f"{variable}=/usr/local/cuda-11.8 has no bin/nvcc" in result.finding
    gpu = Machine(GpuFacts("580.65.06", (Gpu(0, "H100", 81559, "9.0"),)))
    assert prefix.check("toolchain.nvcc", machine=gpu, **on_path).status == "failed"


@pytest.mark.parametrize("item", ['"cuda-nvcc"', '{"name": "cuda-nvcc", "spec": "cuda-nvcc"}'], ids=["name", "object"])
def test_the_receipts_list_of_what_is_not_provided_is_read(prefix, tmp_path, item):
    prefix.file("etc/cogvideo-sat-env/receipt.json", f'{{"not_provided": [{item}]}}')
    doctor = Doctor(prefix.root, Conditions(hardware=Machine(), environ={"PATH": "/usr/bin:/bin"}))
    assert doctor.inputs(activated_env.capture(prefix.root, tmp_path, {}))["not_provided"] == ["cuda-nvcc"]


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


# ---- a small CUDA extension

NVCC = """
case "$1" in --version) echo 'Cuda compilation tools, release {release}, V{release}.1'; exit;; esac
echo "$@" >> "{log}"
while [ $# -gt 0 ]; do [ "$1" = -o ] && touch "$2"; shift; done
"""
LINKER = 'echo "$@" >> "{log}"; while [ $# -gt 0 ]; do [ "$1" = -o ] && touch "$2"; shift; done\n'


def fake_toolchain(prefix, cuda: str = "12.9", nvcc_body: str = NVCC, linker: str = LINKER) -> Path:
    """Return the file in which nvcc and c++, both shell scripts, write down their arguments."""
    torch(prefix, cuda)
    log = prefix.root / "log"
    log.touch()
    prefix.program("nvcc", nvcc_body.replace("{release}", cuda).replace("{log}", str(log)))
    prefix.program("c++", linker.replace("{log}", str(log)))
    (prefix.root / "lib64").mkdir()
    return log


def test_an_extension_is_compiled_for_the_usual_gpus_where_none_is_here(prefix):
    log = fake_toolchain(prefix)
    result = prefix.check("toolchain.extension")
    assert result.status == "passed" and "sm_80, sm_90, sm_100, sm_120, not run: no GPU" in result.finding
    nvcc, link = log.read_text().splitlines()
    assert "-gencode=arch=compute_120,code=sm_120" in nvcc and "-ccbin c++" in nvcc
    assert "-shared" in link and "-lcudart" in link and f"-L{prefix.root}/lib64" in link


def test_an_older_nvcc_is_not_asked_for_blackwell(prefix):
    log = fake_toolchain(prefix, "12.6")
    assert "sm_80, sm_90, not run" in prefix.check("toolchain.extension").finding
    assert "sm_100" not in log.read_text()


def test_the_gpus_that_are_here_are_compiled_for_and_the_result_is_run(prefix):
    log = fake_toolchain(prefix)
    gpus = GpuFacts("580.65.06", (Gpu(0, "H100", 81559, "9.0"), Gpu(1, "A100", 81559, "8.0")))
    result = prefix.check("toolchain.extension", machine=Machine(gpus))
    assert "code=sm_80 -gencode=arch=compute_90,code=sm_90 -c" in log.read_text()
    assert result.status == "failed" and "run on the GPU" in result.finding  # an empty file is no library


def test_a_host_compiler_that_nvcc_refuses_is_named_with_what_to_install(prefix):
    refusal = "echo 'error: -- unsupported GNU version! gcc versions later than 14 are not supported!' >&2; exit 1\n"
    fake_toolchain(prefix, nvcc_body=NVCC.split('echo "$@"')[0] + refusal)
    result = prefix.check("toolchain.extension")
    assert result.status == "failed" and "nvcc refuses the host compiler c++" in result.finding
    assert "gxx_linux-64<15" in result.remedy


def test_a_missing_cuda_runtime_library_is_named(prefix):
    fake_toolchain(prefix, linker="echo 'ld: cannot find -lcudart: No such file' >&2; exit 1\n")
    result = prefix.check("toolchain.extension")
    assert result.status == "failed" and "cannot find -lcudart" in result.finding


def test_a_nvcc_of_another_cuda_compiles_nothing(prefix):
    log = fake_toolchain(prefix)
    torch(prefix, "12.8")
    result = prefix.check("toolchain.extension")
    assert result.status == "not_run" and "nvcc 12.9" in result.finding and log.read_text() == ""


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_a_real_nvcc_compiles_the_extension(prefix):
    """Whatever CUDA the machine has: torch's version is played to fit. nvcc on PATH may be a script: it knows its home."""
    asked = subprocess.run(["nvcc", "--dryrun", "-c", "none.cu"], capture_output=True, text=True, check=False)
    home = Path(re.search(r"TOP=(\S+)", asked.stderr).group(1)).resolve()
    version = subprocess.check_output([home / "bin" / "nvcc", "--version"], text=True)
    torch(prefix, re.search(r"release (\d+\.\d+)", version).group(1))
    result = prefix.check("toolchain.extension", CUDA_HOME=str(home))
    assert result.status == "passed" and "not run: no GPU" in result.finding, result.finding


# ---- SAT's optimizer

FUSED = """
class FusedEmaAdam:
    def __init__(self, params, lr, betas, eps):
        {body}
    def zero_grad(self): pass
    def step(self): {step}
"""


@pytest.mark.parametrize(
    ("body", "step", "status", "words"),
    [
        ("self.weight = params[0]", "self.weight.value -= 0.1", "passed", "three steps lead from 1 to 0.70"),
        ("self.weight = params[0]", "pass", "failed", "lead from 1 to 1.0000"),
        ("raise RuntimeError(\"Error building extension 'fused_ema_adam'\")", "pass", "failed",
         "Error building extension 'fused_ema_adam'"),
    ],
    ids=["good", "no effect", "does not build"],
)  # fmt: skip
def test_sats_optimizer_is_compiled_and_steps(prefix, body, step, status, words):
    prefix.file("lib/site/torch/__init__.py", """
        from . import nn
        def ones(count, device): return 1.0
        """)  # fmt: skip
    prefix.file("lib/site/torch/nn.py", """
        class Parameter:
            def __init__(self, value): self.value = value
            def square(self): return self
            def sum(self): return self
            def backward(self): pass
            def detach(self): return self
            def mean(self): return self.value
        """)  # fmt: skip
    prefix.module("sat/__init__")
    prefix.file("lib/site/sat/ops.py", FUSED.replace("{body}", body).replace("{step}", step))
    gpus = GpuFacts("580.65.06", (Gpu(0, "H100", 81559, "9.0"),))
    result = prefix.check("toolchain.fused-ema-adam", machine=Machine(gpus))
    assert result.status == status and words in result.finding, result.finding

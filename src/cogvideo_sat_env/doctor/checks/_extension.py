"""A small CUDA extension: compiled as torch's JIT compiles one, and run where there is a GPU."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from ._probe import ProbeOutcome, failed, passed, run_joined, warning

_LIMIT = 240.0
# Without a GPU: what CogVideoX is trained on. nvcc knows Blackwell from CUDA 12.8 on.
_USUAL, _BLACKWELL = ("8.0", "9.0"), ("10.0", "12.0")
_KERNEL = """
#include <cuda_runtime.h>
#include <vector>
template <typename T> __global__ void add(T* values, T amount, int count) {
  int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index < count) values[index] += amount;
}
extern "C" int satenv_sum(int count) {
  std::vector<float> host(count, 1.0f);
  float* device = nullptr;
  if (cudaMalloc(&device, count * sizeof(float)) != cudaSuccess) return -1;
  cudaMemcpy(device, host.data(), count * sizeof(float), cudaMemcpyHostToDevice);
  add<float><<<(count + 255) / 256, 256>>>(device, 2.0f, count);
  if (cudaMemcpy(host.data(), device, count * sizeof(float), cudaMemcpyDeviceToHost) != cudaSuccess) return -2;
  cudaFree(device);
  float sum = 0.0f;
  for (float value : host) sum += value;
  return static_cast<int>(sum);
}
"""


def architectures(capabilities: list[str], cuda: str) -> list[str]:
    """Return the capabilities to compile for: those of the GPUs, else the usual ones that nvcc of `cuda` knows."""
    if capabilities:
        return sorted(set(capabilities), key=lambda item: tuple(map(int, item.split("."))))
    new = tuple(map(int, cuda.split(".")[:2])) >= (12, 8)
    return [*_USUAL, *(_BLACKWELL if new else ())]


def build(home: Path, workdir: Path, capabilities: list[str], own: bool, run: bool) -> ProbeOutcome:
    """Compile for `capabilities` with the nvcc below `home` and the host compiler, link, and with `run` run it.

    `own`: the nvcc is the environment's, so that its failure is ours; the host's is only a warning.
    """
    source, compiled, library = (workdir / f"satenv_add{suffix}" for suffix in (".cu", ".o", ".so"))
    source.write_text(_KERNEL, encoding="utf-8")
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    names = [name.replace(".", "") for name in capabilities]
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    judge = failed if own or run else warning
    nvcc = [str(home / "bin" / "nvcc"), "-std=c++17", "-O2", "-Xcompiler", "-fPIC", "-ccbin", compiler[0], *codes]
    done = run_joined([*nvcc, "-c", str(source), "-o", str(compiled)], _LIMIT)
    if done.returncode or not compiled.is_file():
        if "unsupported GNU version" in done.stdout or "unsupported clang version" in done.stdout:
            return judge(
                f"nvcc refuses the host compiler {compiler[0]}: {_error(done.stdout)}",
                "install the compiler that fits this nvcc: mamba install 'gxx_linux-64<15', or name one in CXX",
            )
        return judge(f"nvcc can't compile a small CUDA kernel: {_error(done.stdout)}", _REMEDY)
    folders = [path for path in (home / "lib64", home / "lib", *home.glob("targets/*/lib")) if path.is_dir()]
    link = [*compiler, "-shared", str(compiled), *(f"-L{path}" for path in folders), "-lcudart", "-o", str(library)]
    done = run_joined(link, _LIMIT)
    if done.returncode or not library.is_file():
        return judge(f"{compiler[0]} can't link a CUDA extension: {_error(done.stdout)}", _REMEDY)
    summary = f"a small CUDA extension compiled for {', '.join(f'sm_{name}' for name in names)}"
    if not run:
        return passed(f"{summary}, not run: no GPU", architectures=names)
    count = 10_000
    load = f"import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).satenv_sum({count}))"
    done = run_joined([sys.executable, "-c", load, str(library)], _LIMIT)  # a crash there is a finding here
    if done.returncode or done.stdout.split()[-1:] != [str(3 * count)]:
        return failed(f"{summary}; run on the GPU, it gives {_error(done.stdout)} instead of {3 * count}", _REMEDY)
    return passed(f"{summary} and run on the GPU", architectures=names)


_REMEDY = "{satenv} doctor --only toolchain shows what is missing; in conda: cuda-nvcc, cuda-cudart-dev, gxx_linux-64"


def _error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"error|cannot find", line)), lines[-1] if lines else "no output")[
        :300
    ]

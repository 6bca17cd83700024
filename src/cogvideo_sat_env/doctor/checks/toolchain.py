"""Toolchain: what run-time compilation (JIT) of DeepSpeed's and SAT's extensions needs, and that it works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import _extension
from ._mounts import kind_of
from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, one_line, passed, warning

# Included by ATen/cuda/CUDAContext.h or by DeepSpeed's kernels; each absence was one user's failed build.
HEADERS = {
    "cuda_runtime.h": "cuda-cudart-dev",
    "cusparse.h": "libcusparse-dev",
    "cublas_v2.h": "libcublas-dev",
    "cusolverDn.h": "libcusolver-dev",
}
_NO_FUSED = "FusedEmaAdam, SAT's default optimizer, can't be compiled then"
_STALE = 3600.0  # seconds: no extension of ours takes longer to compile
_PROGRAM = "#include <vector>\nint main() { return static_cast<int>(std::vector<int>{}.size()); }\n"


def compiler(request: ProbeRequest) -> ProbeOutcome:
    """The C++ compiler that torch would take compiles a C++17 program, and ninja is there."""
    prefix = Path(request.inputs["prefix"])
    named = os.environ.get("CXX")
    command = shlex.split(named) if named else ["c++"]  # torch.utils.cpp_extension: CXX, else c++
    program = shutil.which(command[0]) if command else None
    remedy = _install_compiler()
    if program is None:
        what = f"$CXX names {named}, which doesn't exist" if named else "no C++ compiler: no $CXX, no c++ on PATH"
        return failed(f"{what}; DeepSpeed compiles deepspeed_shm_comm when training starts", remedy)
    done = _run([*command, "-std=c++17", "-x", "c++", "-fsyntax-only", "-"], _PROGRAM)
    if done.returncode != 0:
        return failed(f"{program} can't compile a C++17 program: {_first_error(done.stderr)}", remedy)
    version = _run([*command, "--version"], "").stdout.splitlines()
    first = version[0].strip() if version else "unknown version"
    ninja = shutil.which("ninja")
    if ninja is None or _run([ninja, "--version"], "").returncode != 0:
        return failed("ninja is not on PATH; torch compiles no extension without it", "pip install ninja")
    own = Path(program).absolute().is_relative_to(prefix)
    return passed(f"{'the environment' if own else 'the host'}'s {program}: {first}; ninja {ninja}",
                  compiler=program, version=first, ninja=ninja, own=own)  # fmt: skip


def nvcc(request: ProbeRequest) -> ProbeOutcome:
    """nvcc is of the same CUDA as torch, to the minor version, and the compiler finds the CUDA library headers."""
    wanted = torch_cuda()
    if wanted is None:
        return not_run(f"not run: torch is a CPU build, it compiles no CUDA extension ({_NO_FUSED})")
    home = _cuda_home(Path(request.inputs["prefix"]))
    if home is None:
        summary = any("nvcc" in name for name in request.inputs["not_provided"])
        if summary:
            return not_run(f"not run: no nvcc here, and this environment doesn't provide one; {_NO_FUSED}")
        judge = failed if request.inputs["gpu"]["gpus"] else warning  # without a GPU nobody runs FusedEmaAdam here
        return judge(f"no nvcc in the environment or on PATH; {_NO_FUSED}", _nvcc_remedy(wanted, request))
    path = home / "bin" / "nvcc"
    own = path.is_relative_to(Path(request.inputs["prefix"]))
    judge = failed if own else warning
    owner = "the environment's" if own else "the host's"
    done = _run([str(path), "--version"], "")
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    if done.returncode != 0 or found is None:
        output = _first_error(done.stderr or done.stdout)
        return judge(f"{path} doesn't tell its version: {output}", _nvcc_remedy(wanted, request))
    version = found.group(1)
    details: dict[str, Any] = {"nvcc": str(path), "cuda_home": str(home), "torch_cuda": wanted}
    if version != wanted:
        return judge(
            f"{owner} nvcc {version} ({path}), but torch was built for CUDA {wanted}: extensions would build without"
            " an error and fail when they run",
            _nvcc_remedy(wanted, request),
            ledger=("cuda-12.9",) if wanted == "12.9" else (),
            version=version,
            **details,
        )
    missing = _missing_headers(home)
    if missing is None:
        return warning(f"nvcc {version}; the headers can't be looked up without a C++ compiler", _install_compiler())
    if missing:
        packages = " ".join(HEADERS[name] for name in missing)
        return judge(
            f"nvcc {version}, but the compiler doesn't find {', '.join(missing)}: FusedEmaAdam would not build",
            f"mamba install {packages} 'cuda-version={wanted}'", version=version, missing=missing, **details,
        )  # fmt: skip
    return passed(f"{owner} nvcc {version} = torch's CUDA {wanted}; headers found", version=version, **details)


def extensions_dir(request: ProbeRequest) -> ProbeOutcome:
    """The cache of compiled extensions is writable, local to the node, and nobody's dead lock lies in it."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(named) if named else Path(os.path.expanduser("~"), ".cache", "torch_extensions")
    origin = "TORCH_EXTENSIONS_DIR" if named else "torch's default"
    remedy = 'export TORCH_EXTENSIONS_DIR="/tmp/$USER-torch-extensions"'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".satenv-"):
            pass
    except OSError as error:
        return failed(f"{folder} ({origin}) can't be written: {error.strerror}", remedy)
    locks = [path for path in (*folder.glob("*/lock"), *folder.glob("*/*/lock")) if _age(path) > _STALE]
    if locks:
        return warning(
            f"{locks[0]} was left by a compilation that died; the next one waits for it for ever",
            f"rm {shlex.quote(str(locks[0]))}", locks=list(map(str, locks)),
        )  # fmt: skip
    mount = kind_of(folder)
    if mount is not None and mount.is_shared:
        return warning(f"{folder} ({origin}) is on {mount.kind}: nodes compile over each other's files", remedy)
    free = shutil.disk_usage(folder).free / 2**30
    if free < 1.0:
        return warning(f"only {free:.1f} GiB are free in {folder} ({origin}); a build needs about 1 GiB", remedy)
    where = f" on {mount.kind}" if mount is not None else ""
    return passed(f"{folder} ({origin}) is writable, {free:.0f} GiB free{where}")


def extension(request: ProbeRequest) -> ProbeOutcome:
    """Compile a small CUDA extension for the GPUs that are here, or for the usual ones; run it where there is a GPU."""
    wanted = torch_cuda()
    if wanted is None:
        return not_run("not run: torch is a CPU build, it compiles no CUDA extension")
    home = _cuda_home(Path(request.inputs["prefix"]))
    if home is None:
        return not_run("not run: no nvcc")
    found = re.search(r"release (\d+\.\d+)", _run([str(home / "bin" / "nvcc"), "--version"], "").stdout)
    version = found.group(1) if found else "of unknown version"
    if version != wanted:
        return not_run(f"not run: nvcc {version} ({home}) doesn't fit torch's CUDA {wanted}; toolchain.nvcc says more")
    gpus = request.inputs["gpu"]["gpus"]
    capabilities = _extension.architectures([g["compute_capability"] for g in gpus if g["compute_capability"]], wanted)
    own = home.is_relative_to(Path(request.inputs["prefix"]))
    return _extension.build(home, request.workdir, capabilities, own, run=bool(gpus))


def fused_ema_adam(request: ProbeRequest) -> ProbeOutcome:
    """Compile SAT's FusedEmaAdam with the environment's own toolchain, and take steps with it on the GPU."""
    import torch
    from sat.ops import FusedEmaAdam

    weight = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    start = time.monotonic()
    try:
        optimizer = FusedEmaAdam([weight], lr=0.1, betas=[0.9, 0.95], eps=1e-8)  # compiles, the first time
    except Exception as error:  # torch raises RuntimeError, SAT's builder its own kinds: all mean no optimizer
        print(error)
        return failed(
            f"SAT's FusedEmaAdam can't be compiled: {one_line(error)}",
            "see toolchain.nvcc and toolchain.extension; or configure optimizer: {type: AdamW, ...} in its place",
        )
    seconds = time.monotonic() - start
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    value = float(weight.detach().mean())
    if not 0.5 < value < 0.9:  # Adam moves by lr a step as long as the gradient keeps its sign
        return failed(f"three steps of FusedEmaAdam lead from 1 to {value:.4f}, expected about 0.7", None)
    return passed(f"FusedEmaAdam compiled and loaded in {seconds:.0f} s; three steps lead from 1 to {value:.2f}")


def torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for ("12.9"), None for a CPU build, without importing torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torch'")
    values: dict[str, object] = {}
    exec(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"), values)  # assignments only
    return str(values["cuda"]) if values.get("cuda") else None


def _cuda_home(prefix: Path) -> Path | None:
    """Return the CUDA toolkit that torch's JIT takes: CUDA_HOME or CUDA_PATH, nvcc on PATH, /usr/local/cuda."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        value = os.environ.get(name)
        if value and (Path(value) / "bin" / "nvcc").exists():
            return Path(value).absolute()
    on_path = shutil.which("nvcc", path=os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH", "")]))
    for candidate in [*([Path(on_path).absolute().parent.parent] if on_path else []), Path("/usr/local/cuda")]:
        if (candidate / "bin" / "nvcc").exists():
            return candidate
    return None


def _missing_headers(home: Path) -> list[str] | None:
    """Return the headers that the C++ compiler doesn't find with torch's include path; None without a compiler."""
    command = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(command[0]) is None:
        return None
    # the compiler itself answers, so that CPATH and its built-in paths count; nvcc's own targets/ folder rightly
    # doesn't: the C++ half of an extension is compiled without nvcc
    source = "".join(f"#if !__has_include(<{name}>)\nMISSING {name}\n#endif\n" for name in HEADERS)
    done = _run([*command, "-std=c++17", "-E", "-P", "-x", "c++", f"-I{home / 'include'}", "-"], source)
    return [name for name in HEADERS if f"MISSING {name}" in done.stdout]


def _nvcc_remedy(version: str, request: ProbeRequest) -> str:
    if any("nvcc" in name for name in request.inputs["not_provided"]):  # made where no conda channel is reached
        return f"load the site's CUDA toolkit {version} (e.g. module load cuda/{version}) before compiling extensions"
    return f"mamba install 'cuda-version={version}' 'cuda-nvcc={version}' cuda-cudart-dev {' '.join(_LIBRARIES)}"


_LIBRARIES = ("libcublas-dev", "libcusolver-dev", "libcusparse-dev")


def _install_compiler() -> str:
    machine = "aarch64" if os.uname().machine == "aarch64" else "64"
    return f"mamba install gxx_linux-{machine} (or the host's: apt install g++)" if sys.platform == "linux" else \
        "xcode-select --install"  # fmt: skip


def _run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=text, capture_output=True, text=True, errors="replace", timeout=30, check=False
    )


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")[:300]


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # its owner just removed it
        return 0.0

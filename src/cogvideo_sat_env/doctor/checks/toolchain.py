"""Toolchain: what run-time compilation (JIT) of DeepSpeed's and SAT's extensions needs, and that it works."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import _extension, _prefix
from ._folders import why_not_run, why_not_written
from ._mounts import existing, kind_of
from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, one_line, passed, run_program, warning

# Included by ATen/cuda/CUDAContext.h or by DeepSpeed's kernels; each absence was one user's failed build.
HEADERS = {
    "cuda_runtime.h": "cuda-cudart-dev",
    "cusparse.h": "libcusparse-dev",
    "cublas_v2.h": "libcublas-dev",
    "cusolverDn.h": "libcusolver-dev",
}
_NO_FUSED = "FusedEmaAdam, SAT's default optimizer, can't be compiled then"
_SECONDS = 30.0  # for a program of the toolchain to say something
_STALE = 3600.0  # seconds: no extension of ours takes longer to compile
_PROGRAM = "#include <vector>\nint main() { return static_cast<int>(std::vector<int>{}.size()); }\n"


def compiler(request: ProbeRequest) -> ProbeOutcome:
    """The C++ compiler that torch would take compiles a C++17 program, and ninja is there."""
    prefix = Path(request.inputs["prefix"])
    named = os.environ.get("CXX")
    command = shlex.split(named) if named and named.strip() else ["c++"]  # torch.utils.cpp_extension: CXX, else c++
    program = shutil.which(command[0]) if command else None
    remedy = _install_compiler(request)
    if program is None and named:
        judge = failed if deepspeed_needs_compiler() else warning
        return judge(f"CXX={named} names no program, and torch would compile with it", "unset CXX")
    if program is None:
        return _no_compiler(remedy)
    done = _compile(command)
    if done.returncode != 0:
        culprit = next((name for name in _COMPILER_VARIABLES if os.environ.get(name) and _works(command, name)), None)
        cause = f" with {culprit}={os.environ[culprit]}" if culprit else ""
        finding = f"{program}{cause} can't compile a C++17 program: {_first_error(done.stderr)}"
        return failed(finding, f"unset {culprit}" if culprit else remedy)
    problem = _newer_sysroot(request, command)
    if problem is not None:
        return problem
    triton = os.environ.get("CC", "")
    if triton.strip() and shutil.which(shlex.split(triton)[0]) is None:
        judge = failed if request.inputs["gpu"]["gpus"] else warning
        return judge(f"CC={triton} names no program; triton compiles its launchers with it", "unset CC")
    version = run_program([*command, "--version"], _SECONDS).stdout.splitlines()
    first = version[0].strip() if version else "unknown version"
    ninja = shutil.which("ninja")
    if ninja is None or run_program([ninja, "--version"], _SECONDS).returncode != 0:
        return failed("ninja is not on PATH; torch compiles no extension without it",
                      request.restore if request.inputs["receipt"] else "pip install ninja")  # fmt: skip
    own = Path(program).absolute().is_relative_to(prefix)
    return passed(f"{'the environment' if own else 'the host'}'s {program}: {first}; ninja {ninja}",
                  compiler=program, version=first, ninja=ninja, own=own)  # fmt: skip


# What changes which compiler is taken, or what it finds; each is tried without when a small program doesn't compile.
_COMPILER_VARIABLES = ("CXX", "CPATH", "CPLUS_INCLUDE_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LD_LIBRARY_PATH")


def _compile(command: list[str], without: str | None = None) -> subprocess.CompletedProcess[str]:
    """Check the syntax of a small C++17 program, without one of the variables."""
    env = {name: value for name, value in os.environ.items() if name != without}
    return run_program([*command, "-std=c++17", "-x", "c++", "-fsyntax-only", "-"], _SECONDS, input=_PROGRAM, env=env)


def _works(command: list[str], without: str) -> bool:
    """Return whether the program compiles when one variable isn't set; without CXX the compiler is c++."""
    command = ["c++"] if without == "CXX" else command
    return shutil.which(command[0]) is not None and _compile(command, without).returncode == 0


def _no_compiler(remedy: str) -> ProbeOutcome:
    """Return the outcome without any C++ compiler: with a DeepSpeed that does without, training is slower only."""
    what = "no C++ compiler: no $CXX, no c++ on PATH"
    if deepspeed_needs_compiler():
        return failed(f"{what}; DeepSpeed compiles deepspeed_shm_comm when training starts", remedy)
    return warning(
        f"{what}: DeepSpeed sums gradients on the CPU with gloo alone, slower where several processes share a machine;"
        f" and {_NO_FUSED}",
        remedy,
    )


def deepspeed_needs_compiler() -> bool:
    """Return whether DeepSpeed's CPU communication stops without a compiler: that of recipe/ goes on with gloo."""
    spec = find_spec("deepspeed")
    if spec is None or spec.origin is None:
        return True
    try:
        tree = ast.parse(Path(spec.origin).with_name("comm").joinpath("torch.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):  # damaged: imports.together says so
        return True
    builds = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "build_shm_op"]
    caught = (part for build in builds for part in ast.walk(build) if isinstance(part, (ast.Try, ast.If)))
    return not any("load" in ast.dump(part) or "which" in ast.dump(part) for part in caught)


def _newer_sysroot(request: ProbeRequest, command: list[str]) -> ProbeOutcome | None:
    """Return what is wrong when the environment's compiler builds for a newer C library than this machine has."""
    packages = _prefix.names(Path(request.inputs["prefix"]))
    sysroot = next((version for name, (version, _) in packages.items() if name.startswith("sysroot_linux-")), None)
    node = os.confstr("CS_GNU_LIBC_VERSION") if hasattr(os, "confstr") and sys.platform == "linux" else None
    if sysroot is None or not node:
        return None
    program = Path(shutil.which(command[0]) or "")
    here = node.split()[-1]
    if not program.is_relative_to(Path(request.inputs["prefix"])) or _version(sysroot) <= _version(here):
        return None
    return failed(
        f"the environment compiles for glibc {sysroot} (sysroot), this machine has glibc {here}: what is compiled when"
        " training starts can't be loaded here",
        f"mamba install -p '{request.inputs['prefix']}' 'sysroot_linux-64<={here}'",
        sysroot=sysroot, glibc=here,
    )  # fmt: skip


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def nvcc(request: ProbeRequest) -> ProbeOutcome:
    """nvcc is of the same CUDA as torch, to the minor version, and the compiler finds the CUDA library headers."""
    wanted = torch_cuda()
    if wanted is None:
        return not_run(f"not run: torch is a CPU build, it compiles no CUDA extension ({_NO_FUSED})")
    named = next((name for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)), None)
    if named and not Path(os.environ[named], "bin", "nvcc").exists():
        judge = failed if request.inputs["gpu"]["gpus"] else warning
        return judge(
            f"{named}={os.environ[named]} has no bin/nvcc, and torch takes it all the same; {_NO_FUSED}",
            f"unset {named}", cuda_home=os.environ[named],
        )  # fmt: skip
    home = _cuda_home(Path(request.inputs["prefix"]))
    if home is None:
        if any("nvcc" in name for name in request.inputs["not_provided"]):
            return not_run(f"not run: no nvcc here, and this environment doesn't provide one; {_NO_FUSED}")
        judge = failed if request.inputs["gpu"]["gpus"] else warning  # without a GPU nobody runs FusedEmaAdam here
        return judge(f"no nvcc in the environment or on PATH; {_NO_FUSED}", _nvcc_remedy(wanted, request))
    path = home / "bin" / "nvcc"
    own = path.is_relative_to(Path(request.inputs["prefix"]))
    judge = failed if own else warning
    owner = "the environment's" if own else "the host's"
    done = run_program([str(path), "--version"], _SECONDS)
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
        return warning(
            f"nvcc {version}; the headers can't be looked up without a C++ compiler", _install_compiler(request)
        )
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
    except OSError as error:
        return failed(f"{folder} ({origin}) can't be written: {error.strerror}", remedy)
    problem = why_not_written(folder)
    if problem:
        return failed(f"{folder} ({origin}) can't be written: {problem}", remedy)
    problem = why_not_run(folder)
    if problem:
        return failed(
            f"no compiled extension can be loaded from {folder} ({origin}): {problem}", _executable_place(folder)
        )
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


def _executable_place(folder: Path) -> str:
    """Return what to type to have compiled extensions in a folder from which code can be loaded."""
    for place in (Path("/tmp"), Path("/var/tmp"), Path(os.path.expanduser("~"), ".cache")):
        if why_not_run(place) is None:
            return f'export TORCH_EXTENSIONS_DIR="{place}/torch-extensions-$(id -u)"'
    return f"have {existing(folder)} mounted without noexec, or name a folder that is in TORCH_EXTENSIONS_DIR"


def extension(request: ProbeRequest) -> ProbeOutcome:
    """Compile a small CUDA extension for the GPUs that are here, or for the usual ones; run it where there is a GPU."""
    wanted = torch_cuda()
    if wanted is None:
        return not_run("not run: torch is a CPU build, it compiles no CUDA extension")
    home = _cuda_home(Path(request.inputs["prefix"]))
    if home is None:
        return not_run("not run: no nvcc where torch looks for it; toolchain.nvcc says more")
    found = re.search(r"release (\d+\.\d+)", run_program([str(home / "bin" / "nvcc"), "--version"], _SECONDS).stdout)
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
    value = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if value:  # whether there is an nvcc or not
        return Path(value).absolute() if (Path(value) / "bin" / "nvcc").exists() else None
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
    command += ["-std=c++17", "-E", "-P", "-x", "c++", f"-I{home / 'include'}", "-"]
    done = run_program(command, _SECONDS, input=source)
    return [name for name in HEADERS if f"MISSING {name}" in done.stdout]


def _nvcc_remedy(version: str, request: ProbeRequest) -> str:
    if any("nvcc" in name for name in request.inputs["not_provided"]):  # made where no conda channel is reached
        return f"load the site's CUDA toolkit {version} (e.g. module load cuda/{version}) before compiling extensions"
    if not request.conda:
        return f"load the site's CUDA toolkit {version} (e.g. module load cuda/{version})"
    return f"mamba install 'cuda-version={version}' 'cuda-nvcc={version}' {' '.join(sorted(HEADERS.values()))}"


def _install_compiler(request: ProbeRequest) -> str:
    if sys.platform != "linux":
        return "xcode-select --install"
    machine = "aarch64" if os.uname().machine == "aarch64" else "64"
    host = "the host's: apt install g++, or the site's module (module load gcc)"
    if request.conda:
        return f"mamba install -p '{request.inputs['prefix']}' gxx_linux-{machine} (or {host})"
    return host.replace("the host's: ", "", 1)


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "no message")[:300]


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # its owner just removed it
        return 0.0

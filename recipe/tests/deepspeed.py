"""The patches of the package deepspeed, each tried; the build engines run this in a fresh environment.

Ends with 1, naming what fails, when a patch is missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile

RUN = """
import deepspeed, torch
deepspeed.init_distributed("gloo")
tensor = torch.ones(2)
deepspeed.comm.all_reduce(tensor)
print("reduced", tensor.tolist())
"""


def gloo(path: str, cxx: str | None, extensions: str) -> subprocess.CompletedProcess[str]:
    """Start gloo, for one process on the CPU, with the programs in `path` and the C++ compiler `cxx`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC", "CUDA_HOME")}
    env |= {
        "PATH": path, "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": extensions, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
    }  # fmt: skip
    env |= {"CXX": cxx} if cxx else {}
    return subprocess.run([sys.executable, "-c", RUN], env=env, capture_output=True, text=True, check=False)


def no_compiler_is_one_line() -> None:
    """0001: where there is no C++ compiler gloo works alone, and one line says so."""
    with tempfile.TemporaryDirectory() as folder:
        done = gloo(folder, None, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "reduced [1.0, 1.0]" in done.stdout, done.stdout[-2000:]
    said = [line for line in (done.stdout + done.stderr).splitlines() if "no C++ compiler (c++)" in line]
    assert len(said) == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr


def a_compiler_is_used() -> None:
    """0001: where there is one it is called, as before: a build that fails ends the program."""
    with tempfile.TemporaryDirectory() as folder:
        for program in ("uname", "sh"):
            os.symlink(shutil.which(program) or f"/bin/{program}", os.path.join(folder, program))
        compiler = os.path.join(folder, "compiler")
        with open(compiler, "w", encoding="utf-8") as stream:
            stream.write(f"#!/bin/sh\necho called >> {folder}/log\nexit 7\n")
        os.chmod(compiler, 0o755)
        done = gloo(folder + os.pathsep + os.environ["PATH"], f"{compiler} -O1", folder)
        called = os.path.exists(os.path.join(folder, "log"))
    assert done.returncode != 0 and called, done.stdout + done.stderr
    assert "no C++ compiler" not in done.stdout + done.stderr


TESTS = (no_compiler_is_one_line, a_compiler_is_used)


def main() -> int:
    """Run the tests; returns the exit code."""
    failed = []
    for test in TESTS:
        try:
            test()
        except Exception as error:
            failed.append(f"FAILED {test.__name__}: {type(error).__name__}: {str(error).strip().splitlines()[-1:]}")
        else:
            print(f"passed {test.__name__}")
    print("\n".join(failed))  # last, where logs are read
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

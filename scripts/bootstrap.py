"""Make the private tool venv: hash-pinned, safe when two start at once, complete or absent.

usage: bootstrap.py VENV REQUIREMENTS...
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Make the venv named first from the requirement files named after it."""
    venv, requirements = Path(sys.argv[1]), sys.argv[2:]
    if sys.version_info < (3, 10):  # noqa: UP036 - it runs before any version is known
        return _fail(f"{sys.executable} is Python {sys.version.split()[0]}; 3.10 or newer is needed", "SATENV_PYTHON")
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{venv}.lock", "w")  # noqa: SIM115 - held until the process ends
    except OSError as error:
        return _fail(f"can't write to {venv.parent}: {error.strerror}", "SATENV_CACHE")
    # the kernel drops the lock when its holder dies, so a killed bootstrap never blocks the next
    fcntl.flock(lock, fcntl.LOCK_EX)
    if (venv / "complete").exists():
        return 0
    print(f"satenv: preparing its tools in {venv} (once)", file=sys.stderr, flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV")}
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False, env=clean
    )
    if made.returncode != 0:
        said = (made.stdout + made.stderr).strip().splitlines()
        return _fail(
            f"{sys.executable} can't make a venv: {said[-1] if said else 'no reason given'}",
            None,
            "install its venv module (Debian, Ubuntu: apt install python3-venv), or name another one in SATENV_PYTHON",
        )
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    files = [part for name in requirements for part in ("-r", name)]
    installed = subprocess.run([*pip, *options, *files], capture_output=True, text=True, check=False, env=clean)
    if installed.returncode != 0:
        lines = [line for line in installed.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        shutil.rmtree(venv, ignore_errors=True)
        return _fail(
            f"pip could not install the tools: {lines[0]}",
            None,
            "check that pip reaches a package index (pip config list), the proxy, and the free space in the cache",
        )
    (venv / "complete").write_text(sys.version + "\n")
    return 0


def _fail(message: str, variable: str | None, remedy: str | None = None) -> int:
    print(f"satenv: {message}", file=sys.stderr)
    print(f"  {remedy or f'name another one in {variable}'}", file=sys.stderr)
    return 8


if __name__ == "__main__":
    sys.exit(main())

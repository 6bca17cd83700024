"""How long it takes to lock one variant, and to check the project: wall seconds, three runs each, the median.

    python benchmarks/lock.py --frozen metadata

Needs the package index for the pip part. Nothing in the checkout is changed: it works on a copy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds(command: list[str], project: Path, runs: int) -> float:
    """Return the median of the wall seconds that `command` takes."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SATENV_PROJECT": str(project)})
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    """Print a table of commands and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frozen", type=Path, required=True, help="folder with frozen channel metadata")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    satenv = str(ROOT / "scripts" / "satenv")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copy(ROOT / "environment.yml", project)
        shutil.copy(ROOT / "conda-lock.yml", project)
        for name in ("locks", "environments"):
            shutil.copytree(ROOT / name, project / name)
        for title, command in {
            "--version (launcher and start)": [satenv, "--version"],
            "lock --only linux-64-cuda": [satenv, "lock", "--frozen", str(args.frozen), "--only", "linux-64-cuda"],
            "lock (all variants)": [satenv, "lock", "--frozen", str(args.frozen)],
            "lock --render": [satenv, "lock", "--render"],
        }.items():
            print(f"{title:<32} {seconds(command, project, args.runs):6.2f} s", flush=True)
    print(f"{'check':<32} {seconds([satenv, 'check', '--json'], ROOT, args.runs):6.2f} s")


if __name__ == "__main__":
    main()

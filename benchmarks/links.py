"""Warm `create` of the real environment from wheels, beside `cp -al` of it, in one run; and "nothing to do".

    python benchmarks/links.py [--repeat 3] [--work DIR]

The package cache has everything already; hard links need DIR (default: beside the cache) on its file system. The runs
alternate; medians and their ratios are shown, of the wall clock and of CPU seconds, which other programs disturb less.
The aims: create at most 1.5 times `cp -al`, "nothing to do" under 0.2 s.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _seconds(*command: object) -> tuple[float, float]:
    """Return the seconds that a command takes, of the wall clock and of all CPUs."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def main() -> None:
    """Read the arguments, measure, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache", help="on the file system of the cache")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {"create": [], "cp -al": [], "nothing to do": []}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        prefix, copy = Path(folder) / "env", Path(folder) / "copy"
        create = (ROOT / "scripts" / "satenv", "create", "-q", "--source", "wheels", "--no-doctor", "-p", prefix)
        _seconds(*create)  # fills the caches
        for _ in range(options.repeat):
            shutil.rmtree(prefix)
            rows["create"].append(_seconds(*create))
            rows["nothing to do"].append(_seconds(*create))
            rows["cp -al"].append(_seconds("cp", "-al", prefix, copy))
            shutil.rmtree(copy)
    walls = {name: [wall for wall, _ in found] for name, found in rows.items()}
    cpus = {name: statistics.median(cpu for _, cpu in found) for name, found in rows.items()}
    for name, found in walls.items():
        wall = statistics.median(found)
        print(f"{name:<16}{wall:>8.2f} s   {min(found):.2f} to {max(found):.2f}   CPU {cpus[name]:.2f} s")
    pairs = [made / copied for made, copied in zip(walls["create"], walls["cp -al"], strict=True)]
    print(f"create / cp -al = {statistics.median(pairs):.2f}, the median of pairs (aim: 1.5)")


if __name__ == "__main__":
    main()

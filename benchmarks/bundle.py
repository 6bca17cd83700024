"""Pack and verify a bundle, beside coreutils' sha256sum over the same bytes on all cores, in the same run.

    python benchmarks/bundle.py [--sizes 250M 500M 1G 2G] [--repeat 3] [--work DIR]

Members have conda packages' sizes (a few large ones hold most of the bytes) and random content. `pack` hashes and
writes, `verify` reads the bundle and proves every byte; both run in a process of their own, whose peak memory is shown.
The runs alternate, medians are shown; everything is in the page cache, so that processors are compared and not disks.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from cogvideo_sat_env.base.progress import human_bytes  # noqa: E402
from cogvideo_sat_env.bundle.container import open_bundle  # noqa: E402
from cogvideo_sat_env.bundle.verify_bundle import verify  # noqa: E402
from cogvideo_sat_env.bundle.write import Item, write_bundle  # noqa: E402
from cogvideo_sat_env.fetch.limit import parse_bytes  # noqa: E402

SHARES = (0.19, 0.13, 0.11, 0.10, 0.07, 0.05)  # of the largest packages of the linux-64 lock; the rest is small
SMALL = 100


def make_members(folder: Path, size: int) -> None:
    """Write about `size` bytes of members into `folder`."""
    source = random.Random(0)
    sizes = [int(size * share) for share in SHARES]
    sizes += [int(size * (1 - sum(SHARES)) / SMALL)] * SMALL
    for number, amount in enumerate(sizes):
        with open(folder / f"member-{number:03d}", "wb") as stream:
            while amount > 0:
                stream.write(source.randbytes(min(amount, 1 << 20)))
                amount -= 1 << 20


def pack(folder: Path, out: Path) -> None:
    """Pack the members as `satenv bundle pack` does: each against the SHA-256 that it has to have."""
    items = [Item(path.name, path) for path in sorted(folder.iterdir())]
    facts = {"schema": 1, "parts": {}, "tool": {}, "source": "lock"}
    write_bundle(out, items, facts, volume_size=None, base=None, seen=lambda _: None)


def prove(out: Path) -> None:
    """Prove every byte, as `satenv bundle verify` does."""
    verify(open_bundle(out))


def sha256sum(folder: Path) -> None:
    """Hash the members with coreutils on all cores, the largest first."""
    names = sorted((str(p) for p in folder.iterdir()), key=lambda name: -os.path.getsize(name))
    subprocess.run(
        ["xargs", "-0", "-n", "1", "-P", str(os.cpu_count() or 1), "sha256sum"], input="\0".join(names).encode(),
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def in_child(work: Callable[[], object]) -> tuple[float, float]:
    """Run `work` in a forked process; return its seconds and its peak memory in MB."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        start = time.perf_counter()
        code = 1
        try:
            work()
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
            os.write(writer, f"{seconds} {peak}".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as stream:
        found = stream.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit("a measured run failed")
    seconds, peak = map(float, found.split())
    return seconds, peak


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["250M", "500M", "1G", "2G"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {shutil.which('sha256sum')}, Python {sys.version.split()[0]}\n")
    print("| bytes | sha256sum, all cores | pack | of that | memory | verify | of that | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for text in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.work) as name:
            folder, out = Path(name) / "members", Path(name) / "bundle.pyz"
            folder.mkdir()
            make_members(folder, parse_bytes(text, "--sizes"))
            total = sum(path.stat().st_size for path in folder.iterdir())
            times: dict[str, list[float]] = {"sum": [], "pack": [], "verify": []}
            memory = {"pack": 0.0, "verify": 0.0}
            for _ in range(options.repeat):
                start = time.perf_counter()
                sha256sum(folder)
                times["sum"].append(time.perf_counter() - start)
                for what, work in (("pack", partial(pack, folder, out)), ("verify", partial(prove, out))):
                    seconds, peak = in_child(work)
                    times[what].append(seconds)
                    memory[what] = max(memory[what], peak)
            speed = {what: total / statistics.median(found) / 1e6 for what, found in times.items()}
            shown = [
                f"{speed[what]:,.0f} MB/s | {speed[what] / speed['sum']:.0%} | {memory[what]:.0f} MB"
                for what in ("pack", "verify")
            ]
            print(f"| {human_bytes(total)} | {speed['sum']:,.0f} MB/s | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()

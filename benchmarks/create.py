"""Create time by stage from a loopback mirror of generated packages, beside py-rattler's plain install in the same run.

    python benchmarks/create.py [--packages 400] [--files 375] [--size 4000] [--dense] [--repeat 3] [--work DIR]
        [--growth]

"plain" is what py-rattler does with the same records and server: download, extract, link. It proves a SHA-256 for each
download, too, but links as it goes, doesn't look whether its cache was changed, compiles no bytecode and writes no
receipt. conda, mamba and satenv compile the bytecode of noarch Python packages: "compileall" is what that takes after
the plain install, on all cores. The runs alternate, medians are shown. --dense makes files that compress as libraries
do, to 40 percent; without it downloading and reading count for nothing.
"cold" has an empty package cache, "warm" a full one. CPU seconds are of both cores, without the server; unlike the wall
clock they are little disturbed by other programs. --growth measures a quarter, a half and all of the packages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from rattler import install  # noqa: E402
from rattler.package_streaming import PackageArchive  # noqa: E402
from rattler.repo_data import PackageRecord, RepoDataRecord  # noqa: E402

import packages  # noqa: E402
from channelserver import ChannelServer  # noqa: E402
from cogvideo_sat_env.base.artefacts import CondaArtefact  # noqa: E402
from cogvideo_sat_env.base.paths import current_platform  # noqa: E402
from cogvideo_sat_env.base.progress import Silent, human_bytes  # noqa: E402
from cogvideo_sat_env.install.job import Job, Plan  # noqa: E402
from cogvideo_sat_env.install.transaction import install_prefix  # noqa: E402
from cogvideo_sat_env.source.source import Source  # noqa: E402

CHANNEL = "https://conda.example.org/conda-forge"
NO_OP = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cogvideo_sat_env.install.receipt import is_up_to_date, read
prefix = Path(sys.argv[2])
sys.exit(0 if is_up_to_date(prefix, read(prefix), sys.argv[3]) else 1)
"""


def _serve(root: Path, port: multiprocessing.Queue) -> None:
    server = ChannelServer(root)
    port.put(server.url)
    time.sleep(24 * 3600)


async def _records(artefacts: Sequence[CondaArtefact], mirror: Path, url: str) -> list[RepoDataRecord]:
    records = []
    for a in artefacts:
        archive = await PackageArchive.from_path(mirror / a.channel_path)
        with tempfile.NamedTemporaryFile(suffix=".json") as index:
            index.write((await archive.read_files(["info/index.json"]))["info/index.json"])
            index.flush()
            record = PackageRecord.from_index_json(Path(index.name), a.size, a.sha256, a.md5)
        records.append(RepoDataRecord(record, a.file_name, f"{url}/{a.channel_path}", a.channel))
    return records


def _plain(records: list[RepoDataRecord], prefix: Path, cache: Path) -> float:
    start = time.perf_counter()
    asyncio.run(install(records, prefix, cache_dir=cache, show_progress=False, execute_link_scripts=False))
    return time.perf_counter() - start


def _compile(folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-q", "-j", "0", folder], check=True)
    return time.perf_counter() - start


def _cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended; other programs don't disturb them."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak() -> tuple[int, int]:
    """Return the largest resident memory in MiB of this process, and of one of its children, so far."""
    return tuple(resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _measure(work: Path, count: int, files: int, size: int, repeat: int, dense: bool) -> tuple[int, dict[str, float]]:
    mirror = work / "mirror"
    packages.make_many(mirror / "conda-forge", count - 1, files, size, dense)
    packages.make_host_python(mirror / "conda-forge", [])
    artefacts = packages.artefacts(mirror / "conda-forge", CHANNEL)
    total = sum(a.size or 0 for a in artefacts)
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=_serve, args=(mirror, port), daemon=True)
    server.start()
    url = port.get()
    records = asyncio.run(_records(artefacts, mirror, url))
    rows: dict[str, list[float]] = {}
    linked, peak = 0, ()

    def note(name: str, seconds: float) -> None:
        rows.setdefault(name, []).append(seconds)

    for turn in range(repeat):
        here = work / f"turn{turn}"
        for temperature in ("cold", "warm"):
            prefix = here / f"ours-{temperature}"
            plan = Plan(Source("mirror", url), current_platform(), artefacts)
            job = Job(prefix, plan, here / "our-cache", Silent())
            start, cpu = time.perf_counter(), _cpu()
            result = install_prefix(job)
            note(f"{temperature}: satenv, all", time.perf_counter() - start)
            note(f"{temperature}: satenv, CPU", _cpu() - cpu)
            peak = peak or _peak()  # before py-rattler's plain install runs in this very process
            linked = result.files
            for stage, seconds in result.seconds.items():
                if seconds >= 0.01:
                    note(f"{temperature}:   {stage}", seconds)
            cpu = _cpu()
            seconds = _plain(records, here / f"plain-{temperature}", here / "plain-cache")
            note(f"{temperature}: py-rattler plain", seconds)
            note(f"{temperature}: py-rattler plain, CPU", _cpu() - cpu)
            note(
                f"{temperature}:   compileall after it", _compile(packages.site_packages(here / f"plain-{temperature}"))
            )
        start = time.perf_counter()
        assert install_prefix(job).status == "up-to-date"
        note("no-op: in the process", time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", NO_OP, str(ROOT / "src"), str(prefix), plan.fingerprint], check=True)
        note("no-op: a process of its own", time.perf_counter() - start)
        shutil.rmtree(here)
    server.terminate()
    shutil.rmtree(mirror)
    medians = {name: statistics.median(seconds) for name, seconds in rows.items()}
    print(f"{len(artefacts)} packages, {linked:,} files, {human_bytes(total)} compressed, {os.cpu_count()} cores")
    print(f"peak memory of satenv: {peak[0]} MiB in its own process, {peak[1]} MiB in the largest of its children")
    print(f"{'what':<32}{'median s':>10}{'min s':>10}{'max s':>10}")
    for name, seconds in rows.items():
        print(f"{name:<32}{statistics.median(seconds):>10.2f}{min(seconds):>10.2f}{max(seconds):>10.2f}")
    for temperature in ("cold", "warm"):
        ours, plain = (statistics.median(rows[f"{temperature}: {who}"]) for who in ("satenv, all", "py-rattler plain"))
        compiled = statistics.median(rows.get(f"{temperature}:   bytecode", [0.0]))
        compiling = statistics.median(rows[f"{temperature}:   compileall after it"])
        print(
            f"{temperature}: satenv / plain = {ours / plain:.2f}; both with bytecode {ours / (plain + compiling):.2f}, "
            f"both without {(ours - compiled) / plain:.2f}"
        )
    print(json.dumps({name: round(seconds, 3) for name, seconds in medians.items()}))
    return linked, medians


def _growth(work: Path, options: argparse.Namespace) -> None:
    """Measure a quarter, a half and all of the packages, and print seconds for 1,000 files: linear growth is flat."""
    table = []
    for count in (options.packages // 4, options.packages // 2, options.packages):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            table.append(
                (count, *_measure(Path(folder), count, options.files, options.size, options.repeat, options.dense))
            )
    columns = ("cold: satenv, all", "cold: satenv, CPU", "warm: satenv, all", "warm: satenv, CPU")
    print(f"{'packages':>9}{'files':>10}" + "".join(f"{name + ' /1000':>26}" for name in columns))
    for count, files, medians in table:
        print(f"{count:>9}{files:>10,}" + "".join(f"{medians[name] / files * 1000:>26.3f}" for name in columns))


def main() -> None:
    """Read the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, default=400)
    parser.add_argument("--files", type=int, default=375, help="in each package")
    parser.add_argument("--size", type=int, default=4000, help="bytes of each file")
    parser.add_argument("--dense", action="store_true", help="files that compress to 40 percent")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where to work (default: a temporary directory)")
    parser.add_argument("--growth", action="store_true", help="a quarter, a half and all of the packages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        if options.growth:
            _growth(Path(folder), options)
            return
        _measure(Path(folder), options.packages, options.files, options.size, options.repeat, options.dense)


if __name__ == "__main__":
    main()

"""Killed, interrupted, twice at once: the prefix is complete or absent, and the next run finishes the work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.install import receipt, staging
from cogvideo_sat_env.install.prefix_lock import prefix_lock

from .conftest import Recorder, Site

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]

# A run of its own process, which starts others even for so few packages: argv = prefix, cache, mirror folder, server
# URL, options that are true (with commas between), the name left out
RUN = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent / "src")!r}]
from pathlib import Path
import packages
from cogvideo_sat_env.install import workers
from cogvideo_sat_env.install.transaction import install_prefix
from cogvideo_sat_env.base.progress import Plain
from install.conftest import From, make_job
prefix, cache, mirror, url, options, without = sys.argv[1:]
workers.FEW = 0
artefacts = [a for a in packages.artefacts(Path(mirror) / "conda-forge", "https://conda.example.org/conda-forge")
             if a.name != without]
print("started", flush=True)
given = {{"artefacts": artefacts, **dict.fromkeys(filter(None, options.split(",")), True)}}
source = From(lambda a: f"{{url}}/{{a.channel_path}}")
result = install_prefix(make_job(Path(prefix), Path(cache), Plain(), source, given))
print(result.status, flush=True)
"""


def start(site: Site, sample: Path, prefix: Path, without: str = "-", **options: bool) -> subprocess.Popen[str]:
    true = ",".join(name for name, value in options.items() if value)
    command = [sys.executable, "-c", RUN, prefix, site.cache, sample, site.server.url, true, without]
    child = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = b""
    while not first.endswith(b"\n") and (byte := os.read(child.stdout.fileno(), 1)):
        first += byte  # past the buffer: `communicate` doesn't see what readline() has read ahead
    assert first == b"started\n", child.stderr.read()
    return child


def complete(prefix: Path) -> bool:
    found = receipt.read(prefix)
    if found is None or receipt.missing(prefix, found):
        return False
    records = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
    return all((prefix / name).exists() for record in records for name in record["files"])


def duration(site: Site, sample: Path, prefix: Path, **options: object) -> float:
    """Return the seconds from the moment that `start` returns; the second run's, whose cache is warm as in the test."""
    start(site, sample, prefix.with_name("warm-up"), **options).communicate(timeout=60)
    child = start(site, sample, prefix, **options)
    began = time.monotonic()
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    return time.monotonic() - began


@pytest.mark.fault("sigkill", "environment", "none or a whole one after the kill; the next run completes it")
@pytest.mark.e2e
def test_sigkill_at_many_moments_leaves_all_or_nothing_and_a_rerun_completes(site: Site, sample: Path) -> None:
    whole = duration(site, sample, site.home / "measure")
    moments = random.Random(5)
    killed = 0
    for number in range(10):
        prefix = site.home / f"env{number}"
        child = start(site, sample, prefix)
        time.sleep(moments.uniform(0.0, whole * 0.9))
        child.kill()
        child.communicate()
        killed += child.returncode == -signal.SIGKILL
        assert not prefix.exists() or complete(prefix)
        assert site.install(prefix, variables={}).status in ("created", "up-to-date") and complete(prefix)
        assert site.leftovers() == []
    assert killed >= 3  # else the moments prove nothing


@pytest.mark.fault("sigkill-update", "environment", "the old one or the new one, whole")
def test_sigkill_while_replacing_leaves_the_old_or_the_new(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    site.install(prefix, variables={})
    old = receipt.read(prefix)["fingerprint"]
    whole = duration(site, sample, site.home / "measure", without="data")
    moments = random.Random(7)
    for _ in range(6):
        child = start(site, sample, prefix, replace=True, without="data")
        time.sleep(moments.uniform(whole * 0.3, whole))
        child.kill()
        child.communicate()
        if not prefix.exists():  # between two renames: recovered by the next run
            assert len(staging.siblings(prefix, staging.OLD)) == 1
            staging.recover(prefix, site.progress)
        assert complete(prefix)
        if receipt.read(prefix)["fingerprint"] != old:
            site.install(prefix, variables={}, replace=True)
    site.install(prefix, variables={})
    assert complete(prefix) and site.leftovers() == []


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_at_each_rename_is_recovered(site: Site, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    old = receipt.read(prefix)["fingerprint"]
    staged = staging.make(prefix)
    (staged / "half").write_text("x")
    if moment == "between":
        prefix.rename(prefix.with_name(".env.satenv-old-0123"))
    if moment == "after":
        whole = prefix.with_name(".env.satenv-trash-0123")
        whole.mkdir()
        (whole / "half-deleted").write_text("x")
    assert site.install(prefix).status == "up-to-date" and site.leftovers() == []
    fewer = [a for a in site.artefacts if a.name != "data"]
    assert receipt.read(prefix)["fingerprint"] == old and complete(prefix)
    assert site.install(prefix, artefacts=fewer, replace=True).status == "replaced"
    assert complete(prefix) and site.leftovers() == []


def test_sigint_cleans_up_and_ends_as_interrupted(site: Site, sample: Path) -> None:
    site.server.fail("prefixed-1.0-h0_0.conda", "slow", seconds=20)
    prefix = site.home / "env"
    child = start(site, sample, prefix)
    deadline = time.monotonic() + 20
    others = len(site.artefacts) - 1  # which are there: what has arrived of a file is kept for the next run
    while time.monotonic() < deadline and (
        "/conda-forge/linux-64/prefixed-1.0-h0_0.conda" not in site.server.requests
        or len(list(site.cache.glob("artefacts/*/*/*.conda"))) < others
    ):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode in (-signal.SIGINT, 130) and "KeyboardInterrupt" in said
    assert not prefix.exists() and site.leftovers() == [] and not list(site.cache.rglob("*.partial"))


def test_sigint_after_linking_removes_what_was_staged(site: Site) -> None:
    def interrupt(staged: Path) -> None:
        assert (staged / "conda-meta").is_dir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.install(site.home / "env", linked=interrupt)
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_a_failure_while_replacing_leaves_the_old_one_untouched(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    before = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")}

    def fail(staged: Path) -> None:
        raise PrefixError("no", None)

    with pytest.raises(PrefixError, match="^no$"):
        site.install(prefix, artefacts=site.artefacts[:1], replace=True, linked=fail)
    assert {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")} == before and site.leftovers() == []


def test_two_runs_at_once_make_one_environment(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    children = [start(site, sample, prefix) for _ in range(3)]
    said = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert sorted(out.strip() for out, _ in said) == ["created", "up-to-date", "up-to-date"]
    assert any("waiting for process" in err for _, err in said)
    assert complete(prefix) and site.leftovers() == []


def test_runs_at_once_for_other_prefixes_share_the_cache(site: Site, sample: Path) -> None:
    prefixes = [site.home / f"env{number}" for number in range(4)]
    children = [start(site, sample, prefix) for prefix in prefixes]
    said = [child.communicate(timeout=120) for child in children]
    assert [out.strip() for out, _ in said] == ["created"] * 4, said
    assert all(complete(prefix) for prefix in prefixes) and site.leftovers() == []


def test_a_busy_prefix_names_its_holder_when_the_wait_is_over(site: Site) -> None:
    prefix = site.home / "env"
    code = (
        f"import sys, time; sys.path.insert(0, {str(TESTS.parent / 'src')!r})\n"
        "from pathlib import Path\n"
        "from cogvideo_sat_env.install.prefix_lock import prefix_lock\n"
        "from cogvideo_sat_env.base.progress import Silent\n"
        "with prefix_lock(Path(sys.argv[1]), Silent()):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(prefix)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PrefixError, match=f"by process {holder.pid} on {os.uname().nodename}"):
            site.install(prefix, wait=0.5)
    finally:
        holder.kill()
        holder.wait()
    with prefix_lock(prefix, Recorder(), timeout=5):  # released by the kernel with its holder
        pass


def test_the_linking_process_ends_with_its_parent() -> None:
    from cogvideo_sat_env.install import workers

    child = workers.start_process("link")
    child.stdin.write('{"task": "link", "jobs": [')  # no end of line: it waits
    child.stdin.close()
    assert child.wait(timeout=20) == 0 and child.stdout.read() == ""
    child.stdout.close()

"""A machine that has no space, no rights, an odd clock, odd settings or an odd path."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.install import receipt
from install.conftest import CHANNEL, Site, make_wheel, pin
from install.test_atomicity import RUN, complete

from .conftest import fill, tree

Disk = Callable[[str], Path]


def files_only(site: Site) -> list:
    """The packages without Python: no bytecode is made of them."""
    return [a for a in site.artefacts if a.name not in ("python", "purepy")]


@pytest.mark.fault("disk-full-receipt", "error", "names the place; the half-made prefix is removed")
def test_a_disk_that_is_full_when_the_receipt_is_due(site: Site, disk: Disk) -> None:
    place = disk("size=6m")
    with pytest.raises(PrefixError, match=f"{place}.*no space left"):
        site.install(place / "env", artefacts=files_only(site), linked=lambda staged: fill(place) and None)
    assert not (place / "env").exists() and sorted(p.name for p in place.iterdir()) == ["filler"]


@pytest.mark.fault("disk-full-pip", "error", "names the place; the half-made prefix is removed")
def test_a_disk_that_is_full_when_pip_packages_are_laid_out(site: Site, disk: Disk, tmp_path: Path) -> None:
    place = disk("size=64m")
    wheel = make_wheel(tmp_path / "wheels", "tiny", "0.1", {"tiny.py": "X = 1\n" * 10_000})
    pinned = pin(wheel, "tiny", "0.1")
    cached = site.cache / "artefacts" / pinned.sha256[:2] / pinned.sha256 / wheel.name
    cached.parent.mkdir(parents=True)
    shutil.copy(wheel, cached)
    python = [a for a in site.artefacts if a.name == "python"]
    with pytest.raises(PrefixError, match=f"{place}.*no space left"):
        site.install(place / "env", [pinned], artefacts=python, linked=lambda staged: fill(place) and None)
    assert not (place / "env").exists() and sorted(p.name for p in place.iterdir()) == ["filler"]


@pytest.mark.fault("disk-full-repair", "error", "names the place; the prefix is as it was")
def test_a_disk_that_is_full_when_a_prefix_is_repaired(site: Site, disk: Disk) -> None:
    place = disk("size=6m")
    prefix = place / "env"
    site.install(prefix, artefacts=files_only(site))
    (prefix / "share/data/a.txt").write_text("damaged\n")
    filler = fill(place)
    before = tree(prefix)
    with pytest.raises(PrefixError, match=f"{place}.*no space left"):
        site.install(prefix, artefacts=files_only(site), repair=True)
    assert tree(prefix) == before
    filler.unlink()
    result = site.install(prefix, artefacts=files_only(site), repair=True)
    assert result.repaired == ("share/data/a.txt (changed)",)


@pytest.mark.fault("inodes", "error", "names the place, and how many inodes and bytes are free there")
@pytest.mark.parametrize("where", ["prefix", "cache"])
def test_a_file_system_without_inodes_is_named_as_such(site: Site, disk: Disk, where: str) -> None:
    place = disk("size=20m,nr_inodes=32")
    prefix = (place if where == "prefix" else site.home) / "env"
    with pytest.raises(PrefixError, match=f"{place}.* inodes are "):
        site.install(prefix, cache=place / "cache" if where == "cache" else site.cache)
    assert not prefix.exists() and not [p for p in prefix.parent.iterdir() if ".satenv-" in p.name]


@pytest.mark.fault("tmpdir-full", "error", "names TMPDIR before anything is fetched")
def test_a_full_tmpdir_is_named_before_the_work(site: Site, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    place = disk("size=1m,nr_inodes=2")
    fill(place)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with pytest.raises(PrefixError, match=f"^{place}: no space left for temporary files"):
        site.install(site.home / "env")
    assert os.listdir(site.home) == [] and site.server.requests == [] and not site.cache.exists()


def run(
    site: Site, sample: Path, prefix: Path, preamble: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Install in a process of its own, with nothing in its environment but PATH and `variables`."""
    return subprocess.run(
        [sys.executable, "-c", preamble + RUN, str(prefix), str(site.cache), str(sample), site.server.url, "", "-"],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **variables},
    )  # fmt: skip


@pytest.mark.fault("home-unset", "environment", "the password database tells the home, or nothing needs it")
def test_home_is_not_needed(site: Site, sample: Path) -> None:
    done = run(site, sample, site.home / "env")
    assert done.returncode == 0, done.stderr
    assert complete(site.home / "env")


@pytest.mark.fault("umask", "environment", "complete, for its owner alone")
def test_umask_077_gives_a_complete_prefix_for_its_owner(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    done = run(site, sample, prefix, "import os; os.umask(0o077)\n")
    assert done.returncode == 0, done.stderr
    assert complete(prefix)
    assert stat.S_IMODE(prefix.stat().st_mode) == 0o700
    assert subprocess.run([prefix / "bin" / "purepy"], capture_output=True, text=True).stdout == "purepy main\n"


CLOCK = """
import datetime, time
real = time.time
time.time = lambda: real() - 30 * 365 * 86400
class Past(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(time.time(), tz)
datetime.datetime = Past
"""


@pytest.mark.slow
@pytest.mark.fault("clock-past", "environment", "nothing is judged by the clock: files may be newer than now")
def test_a_clock_in_the_past_changes_nothing(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    done = run(site, sample, prefix, CLOCK)
    assert done.returncode == 0, done.stderr
    assert complete(prefix)
    assert int(receipt.read(prefix)["made"][:4]) < 2000  # the clock was believed to be in the past
    again = run(site, sample, prefix, CLOCK)
    assert again.stdout.split() == ["started", "up-to-date"]
    future = 4_000_000_000
    for path in [*site.cache.rglob("*"), *prefix.rglob("*")]:
        os.utime(path, (future, future), follow_symlinks=False)
    assert site.install(prefix, variables={}).status == "up-to-date"
    assert site.install(site.home / "second").status == "created" and complete(site.home / "second")


def programs_run(prefix: Path) -> None:
    for script, said in (("purepy", "purepy main\n"), ("purepy-script", "script\n"), ("prefixed", f"{prefix}/share\n")):
        child = subprocess.run([prefix / "bin" / script], capture_output=True, text=True)
        assert (child.stdout, child.stderr) == (said, "")


@pytest.mark.fault("path-unicode", "environment", "programs run, and paths in files are right")
def test_a_prefix_may_have_any_letters(site: Site) -> None:
    prefix = site.home / "ünï-環境-🎬"
    site.install(prefix)
    assert complete(prefix)
    programs_run(prefix)
    assert f"{prefix}/share\0".encode() in (prefix / "lib/libprefixed.so").read_bytes()


@pytest.mark.fault(
    "path-long", "environment", "programs start through /bin/sh or env where #! is too long for the kernel"
)
def test_a_prefix_of_200_characters_works(site: Site) -> None:
    prefix = site.home / ("l" * (200 - len(str(site.home)) - 1))
    assert len(str(prefix)) == 200
    site.install(prefix)
    assert complete(prefix)
    for script, said in (("purepy", "purepy main\n"), ("prefixed", f"{prefix}/share\n")):
        child = subprocess.run([prefix / "bin" / script], capture_output=True, text=True)
        assert (child.stdout, child.stderr) == (said, "")


def test_packages_of_this_area_are_what_they_seem(sample: Path) -> None:
    assert {a.name for a in packages.artefacts(sample / "conda-forge", CHANNEL)} >= {"prefixed", "purepy", "python"}

"""Runs that are killed, and runs that meet."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.install import prefix_lock as locking
from cogvideo_sat_env.install import receipt, staging
from cogvideo_sat_env.install.prefix_lock import Owner, lock_path, prefix_lock
from install.conftest import Recorder, Site
from install.test_atomicity import complete, duration, start

MANY = 16


@pytest.mark.e2e
@pytest.mark.fault("sigkill", "environment", "none or a whole one after the kill; the next run completes it")
def test_sigkill_at_50_random_moments(site: Site, sample: Path) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    moments = random.Random(seed)
    whole = duration(site, sample, site.home / "measure")
    for number in range(50):
        prefix = site.home / f"env{number}"
        child = start(site, sample, prefix)
        time.sleep(moments.uniform(0.0, whole))
        child.kill()
        child.communicate()
        assert not prefix.exists() or complete(prefix), f"seed {seed}, kill {number}"
        assert site.install(prefix, variables={}).status in ("created", "up-to-date") and complete(prefix)
        assert site.leftovers() == [], f"seed {seed}, kill {number}"


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let this process die, as far as files are concerned, at its rename or removal with this number."""
    count = 0

    class Killed(BaseException):
        pass

    def dying(function):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count >= number:
                raise Killed
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(staging.shutil, "rmtree", dying(staging.shutil.rmtree))
    monkeypatch.setattr(staging.os, "replace", dying(staging.os.replace))


@pytest.mark.e2e
@pytest.mark.fault("sigkill-update", "environment", "the old one or the new one, whole; undo still works")
@pytest.mark.parametrize("action", ["update", "undo"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_kill_at_each_rename_of_an_update_leaves_old_or_new(
    site: Site, monkeypatch: pytest.MonkeyPatch, action: str, number: int
) -> None:
    prefix = site.home / "env"
    fewer = [a for a in site.artefacts if a.name != "data"]
    site.install(prefix)
    if action == "undo":
        site.install(prefix, artefacts=fewer, replace=True, keep=True)
    with monkeypatch.context() as killing:
        stop_at(killing, number)
        try:
            if action == "update":
                site.install(prefix, artefacts=fewer, replace=True, keep=True)
            else:
                staging.swap(prefix, staging.kept(prefix))
        except BaseException as error:  # Killed
            assert type(error).__name__ == "Killed"
    staging.recover(prefix, site.progress)
    assert complete(prefix) and site.leftovers() in ([], [path.name for path in staging.siblings(prefix, staging.UNDO)])
    names = {p["name"] for p in receipt.read(prefix)["packages"]}
    assert names in ({a.name for a in site.artefacts}, {a.name for a in fewer})


@pytest.mark.fault("sigkill-repair", "environment", "each file is the old or the right one; the next repair goes on")
def test_a_kill_between_two_files_of_a_repair_is_gone_on_with(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    names = ["share/data/a.txt", "share/prefixed/plain.txt", "lib/liblinked.so.1"]
    for name in names:
        (prefix / name).unlink()
        (prefix / name).write_text("damaged")
    with monkeypatch.context() as killing:
        stop_at(killing, 3)
        with pytest.raises(BaseException, match="^$") as caught:
            site.install(prefix, repair=True)
        assert caught.type.__name__ == "Killed"
    assert 0 < sum((prefix / name).read_bytes() == b"damaged" for name in names) < len(names)
    result = site.install(prefix, repair=True)
    assert result.status == "repaired" and complete(prefix) and site.leftovers() == []
    assert not any((prefix / name).read_bytes() == b"damaged" for name in names)


@pytest.mark.e2e
@pytest.mark.fault("sigkill-repair", "environment", "each file is the old or the right one; the next repair goes on")
def test_sigkill_of_a_repair_at_random_moments(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    site.install(prefix, variables={})
    right = {p: p.read_bytes() for p in sorted(prefix.glob("share/**/*")) if p.is_file()}
    moments = random.Random(11)
    whole = duration(site, sample, site.home / "measure")
    for number in range(10):
        for path in right:
            path.unlink()
            path.write_text("damaged")
        child = start(site, sample, prefix, repair=True)
        time.sleep(moments.uniform(whole * 0.3, whole * 1.1))
        child.kill()
        child.communicate()
        assert all(p.read_bytes() in (b"damaged", content) for p, content in right.items()), number
        assert site.install(prefix, variables={}, repair=True).status in ("repaired", "up-to-date")
        assert {p: p.read_bytes() for p in right} == right and complete(prefix) and site.leftovers() == [], number


@pytest.mark.e2e
@pytest.mark.fault("sigkill-update", "environment", "the old one or the new one, whole; undo still works")
def test_sigkill_of_an_update_at_random_moments_leaves_something_to_undo_to(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    everything, fewer = {a.name for a in site.artefacts}, {a.name for a in site.artefacts} - {"data"}
    site.install(prefix, variables={})
    moments = random.Random(13)
    whole = duration(site, sample, site.home / "measure", without="data")
    for number in range(10):
        child = start(site, sample, prefix, without="data", replace=True, keep=True)
        time.sleep(moments.uniform(whole * 0.3, whole * 1.1))
        child.kill()
        child.communicate()
        staging.recover(prefix, site.progress)
        now = {p["name"] for p in receipt.read(prefix)["packages"]}
        assert complete(prefix) and now in (everything, fewer), number
        if now == fewer and (kept := staging.kept(prefix)):  # killed after the rename: the one before is kept, whole
            staging.swap(prefix, kept)
            assert {p["name"] for p in receipt.read(prefix)["packages"]} == everything and complete(prefix), number
        elif now == fewer:
            site.install(prefix, variables={}, replace=True)
        assert set(site.leftovers()) <= {path.name for path in staging.siblings(prefix, staging.UNDO)}, number


@pytest.mark.e2e
@pytest.mark.fault("same-prefix", "environment", "one run makes it, the others wait and find it made")
def test_16_runs_for_one_prefix_make_one_environment(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    children = [start(site, sample, prefix) for _ in range(MANY)]
    said = [child.communicate(timeout=300) for child in children]
    assert sorted(out.strip() for out, _ in said) == ["created"] + ["up-to-date"] * (MANY - 1), said
    assert complete(prefix) and site.leftovers() == []
    assert sum("waiting for process" in err for _, err in said) >= 1


@pytest.mark.e2e
@pytest.mark.fault("other-prefixes", "environment", "each is right; every package is extracted once")
def test_16_runs_for_other_prefixes_share_one_cache(site: Site, sample: Path) -> None:
    prefixes = [site.home / f"env{number}" for number in range(MANY)]
    children = [start(site, sample, prefix) for prefix in prefixes]
    said = [child.communicate(timeout=300) for child in children]
    assert [out.strip() for out, _ in said] == ["created"] * MANY, said
    assert all(complete(prefix) for prefix in prefixes) and site.leftovers() == []
    plain = {(prefix / "share/data/a.txt").stat().st_ino for prefix in prefixes}
    assert len(plain) == 1  # hard links to the one file of the cache
    assert not list(site.cache.rglob("*.partial"))


def hold(prefix: Path, owner: Owner, silent: float = 0.0) -> None:
    """Leave a lock of `owner`, who was last heard of `silent` seconds ago."""
    path = lock_path(prefix)
    path.write_text(json.dumps(asdict(owner)))
    heard = time.time() - silent
    locking.os.utime(path, (heard, heard))


@pytest.mark.fault("lock-holder-dead", "environment", "says whose lock it was, and takes it over")
@pytest.mark.parametrize("why", ["ended", "number-reused"])
def test_the_lock_of_a_dead_process_of_this_host_is_taken_over(site: Site, why: str) -> None:
    prefix = site.home / "env"
    me = Owner.this_process()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    hold(prefix, {
        "ended": replace(me, pid=ended.pid, token="t"),
        "number-reused": replace(me, started="1", token="t"),
    }[why])  # fmt: skip
    assert site.install(prefix, wait=0.0).status == "created"
    assert any("has ended; the lock is taken over" in line for line in site.progress.said)
    assert not lock_path(prefix).exists()


@pytest.mark.fault("lock-other-host", "error", "names host, process and time; the living one is never robbed")
def test_the_lock_of_a_living_process_elsewhere_is_never_taken(site: Site) -> None:
    prefix = site.home / "env"
    other = replace(Owner.this_process(), host="node17", pid=4711, token="t")
    hold(prefix, other)
    for options in ({}, {"break_lock": True}):
        with pytest.raises(PrefixError, match=r"still locked after 0.3 s by process 4711 on node17 \(since 20"):
            site.install(prefix, wait=0.3, **options)
    assert not prefix.exists() and json.loads(lock_path(prefix).read_text())["host"] == "node17"


@pytest.mark.fault("lock-other-host", "error", "after ten silent minutes says so and names --break-lock")
@pytest.mark.parametrize("other", [{"host": "node17"}, {"boot": "another start, or another host of this name"}])
def test_a_silent_lock_of_another_host_is_taken_only_when_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    monkeypatch.setattr(locking, "HEARTBEAT", 0.1)
    prefix = site.home / "env"
    hold(prefix, replace(Owner.this_process(), token="t", **other), silent=3600.0)
    with pytest.raises(PrefixError, match="no sign of life for 60 minutes") as caught:
        site.install(prefix, wait=0.3)
    assert "--break-lock" in caught.value.remedy and not prefix.exists()
    assert site.install(prefix, wait=0.3, break_lock=True).status == "created"


def test_a_living_holder_is_never_robbed_even_in_a_long_silence(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "HEARTBEAT", 0.1)
    prefix = site.home / "env"
    me = Owner.this_process()
    hold(prefix, replace(me, token="t"), silent=3600.0)  # this very process, as another of its threads
    with (
        pytest.raises(PrefixError, match="still locked after 0.3 s"),
        prefix_lock(prefix, Recorder(), 0.3, break_lock=True),
    ):
        raise AssertionError("two at once")


@pytest.mark.slow
def test_a_holder_whose_clock_is_behind_is_alive_while_it_gives_signs_of_life(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "HEARTBEAT", 0.2)
    prefix = site.home / "env"
    hold(prefix, replace(Owner.this_process(), host="node17", token="t"))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            an_hour_ago = time.time() - 3600
            locking.os.utime(lock_path(prefix), (an_hour_ago, an_hour_ago))

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with (
            pytest.raises(PrefixError, match=r"still locked after 0.3 s"),
            prefix_lock(prefix, Recorder(), 0.3, break_lock=True),
        ):
            raise AssertionError("two at once")
    finally:
        ended.set()
        heart.join()


def test_what_killed_runs_left_of_locks_is_removed(site: Site) -> None:
    prefix = site.home / "env"
    lefts = [site.home / f".env.lock.{name}" for name in ("guard", "0123456789abcdef")]
    for left in lefts:
        left.touch()
        locking.os.utime(left, (1, 1))
    site.install(prefix)
    assert [path.name for path in site.home.iterdir()] == ["env"]


def test_a_holder_gives_signs_of_life_and_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "HEARTBEAT", 0.05)
    prefix = site.home / "env"
    with prefix_lock(prefix, Recorder()):
        path = lock_path(prefix)
        locking.os.utime(path, (0, 0))
        until = time.monotonic() + 20
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.02)
        assert path.stat().st_mtime > 0
    assert list(site.home.iterdir()) == []


def test_an_empty_lock_file_of_an_older_version_holds_nobody_up(site: Site) -> None:
    prefix = site.home / "env"
    lock_path(prefix).touch()
    locking.os.utime(lock_path(prefix), (1, 1))
    assert site.install(prefix, wait=0.0).status == "created"


def test_who_lost_the_lock_does_not_give_back_anothers(site: Site) -> None:
    prefix = site.home / "env"
    other = replace(Owner.this_process(), host="node17", token="t")
    with prefix_lock(prefix, Recorder()):
        hold(prefix, other)
    assert json.loads(lock_path(prefix).read_text())["host"] == "node17"

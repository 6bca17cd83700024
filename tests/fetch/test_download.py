"""A fetch ends in the right bytes or in one clear error, and what has arrived is not fetched again."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import channelserver
from cogvideo_sat_env.base.errors import PrefixError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.fetch import limit
from cogvideo_sat_env.fetch.limit import parse_bytes
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.transfer import Live
from cogvideo_sat_env.fetch.wanted import Policy, Wanted

NAMES = ("one-1-0.conda", "two-1-0.tar.bz2", "three-1-py3-none-any.whl")
SIZE = 300_000
QUICK = Policy(attempts=3, backoff=0.01, stall=1.0)


class Progress:
    """Keeps what is said and counts what is advanced, which must end at the total."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done, self.lock = 0, threading.Lock()

    def say(self, text: str) -> None:
        self.said.append(text)

    def task(self, title, total, unit):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, amount: int) -> None:
        with self.lock:
            self.done += amount

    def note(self, text: str) -> None: ...


@dataclass
class Place:
    """A server with three files and a folder to fetch them into."""

    server: channelserver.ChannelServer
    root: Path
    target: Path
    progress: Progress

    def wanted(self, name: str = NAMES[0], *bases: str) -> Wanted:
        content = (self.root / name).read_bytes()
        urls = tuple(f"{base}/{name}" for base in bases or (self.server.url,))
        return Wanted(name, self.target / name, hashlib.sha256(content).hexdigest(), urls, len(content))

    def fetch(self, *wanted: Wanted, policy: Policy = QUICK, **options) -> list[Wanted]:
        items = wanted or tuple(self.wanted(name) for name in NAMES)
        return fetch_files(items, title="t", what="the files", progress=self.progress, policy=policy, **options)

    def refused(self, kind: type[SatenvError], *wanted: Wanted, policy: Policy = QUICK) -> SatenvError:
        with pytest.raises(kind) as caught:
            self.fetch(*wanted or (self.wanted(),), policy=policy)
        assert not any((self.target / name).exists() for name in NAMES), "nothing may have its name"
        assert self.server.url in caught.value.message and caught.value.remedy
        return caught.value

    def is_right(self, *names: str) -> bool:
        return all((self.target / name).read_bytes() == (self.root / name).read_bytes() for name in names or NAMES)

    @property
    def partial(self) -> Path:
        return self.target / f"{NAMES[0]}.partial"

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.server.headers]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    root = tmp_path / "root"
    root.mkdir()
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(random.Random(number).randbytes(SIZE))
    with channelserver.serving(root) as server:
        yield Place(server, root, tmp_path / "target", Progress())


def test_everything_arrives_and_again_nothing_is_asked(place: Place) -> None:
    assert len(place.fetch()) == 3 and place.is_right()
    assert place.progress.done == 3 * SIZE
    place.server.heal()
    assert place.fetch() == [] and place.server.requests == []
    assert sorted(path.name for path in place.target.iterdir()) == sorted(NAMES)


def test_a_damaged_file_is_fetched_again_but_not_when_it_is_trusted(place: Place) -> None:
    place.fetch()
    damaged = bytearray((place.target / NAMES[1]).read_bytes())
    damaged[7] ^= 1
    (place.target / NAMES[1]).write_bytes(damaged)
    assert place.fetch(trust=lambda _: True) == []
    assert [item.name for item in place.fetch()] == [NAMES[1]] and place.is_right()


@pytest.mark.fault("reset", "environment", "the transfer goes on at the byte where it broke off")
def test_resets_at_random_bytes_are_resumed(place: Place) -> None:
    at = sorted(random.Random(5).sample(range(1, SIZE), 6))
    faults = iter(at)

    def next_fault(file_name: str) -> channelserver.Fault | None:
        cut = next(faults, None)
        return channelserver.Fault("reset", at=cut) if cut else None

    place.server.fault_for = next_fault
    place.fetch(place.wanted())
    assert place.is_right(NAMES[0]) and place.progress.done == SIZE
    ranges = place.ranges()
    assert ranges[0] is None and len(ranges) == 7
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r in ranges[1:] if r]
    assert starts == sorted(starts) and all(start <= cut for start, cut in zip(starts, at, strict=False))


@pytest.mark.fault(
    "truncated-body", "error", "names file, source, expected and found bytes; the next run goes on there"
)
def test_a_cut_off_file_is_kept_for_the_next_run_which_goes_on(place: Place) -> None:
    place.server.fail(NAMES[0], "truncate", at=SIZE // 3)
    error = place.refused(VerificationError)
    assert f"truncated: expected {SIZE:,} bytes, found {SIZE // 3:,}" in error.message
    assert place.partial.stat().st_size == SIZE // 3
    place.server.heal()
    place.fetch(place.wanted())
    assert place.is_right(NAMES[0]) and place.ranges() == [f"bytes={SIZE // 3}-"] and not place.partial.exists()


@pytest.mark.fault("range-ignored", "environment", "the file is fetched from its beginning")
def test_a_server_that_ignores_range_sends_it_all_again(place: Place) -> None:
    place.target.mkdir()
    place.partial.write_bytes((place.root / NAMES[0]).read_bytes()[:1000])
    place.server.fail(NAMES[0], "no-range")
    place.fetch(place.wanted())
    assert place.is_right(NAMES[0]) and place.ranges() == ["bytes=1000-"]


def test_a_file_that_changes_while_it_is_fetched_is_begun_again(place: Place) -> None:
    wanted = place.wanted()
    right = (place.root / NAMES[0]).read_bytes()
    (place.root / NAMES[0]).write_bytes(bytes(SIZE))  # what the server has at first
    put_right = place.server.fault_for

    def cut_once_then_change(file_name: str) -> channelserver.Fault | None:
        if len(place.server.requests) == 1:
            return channelserver.Fault("truncate")
        (place.root / NAMES[0]).write_bytes(right)
        return put_right(file_name)

    place.server.fault_for = cut_once_then_change
    place.fetch(wanted)
    assert place.is_right(NAMES[0])
    assert "If-Range" in place.server.headers[1][1]


@pytest.mark.parametrize("junk", [b"junk" * 1000, b"j" * (SIZE + 5)], ids=["short", "long"])
def test_a_wrong_partial_of_an_earlier_run_is_thrown_away(place: Place, junk: bytes) -> None:
    place.target.mkdir()
    place.partial.write_bytes(junk)
    place.fetch(place.wanted())
    assert place.is_right(NAMES[0]) and place.progress.done == SIZE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            NAMES[0], marks=pytest.mark.fault("flipped-bit-conda", "error", "names file, source and both hashes")
        ),
        NAMES[1],
        pytest.param(
            NAMES[2], marks=pytest.mark.fault("flipped-bit-pip", "error", "names file, source and both hashes")
        ),
    ],
)
def test_a_flipped_bit_in_each_kind_of_artefact_is_found(place: Place, name: str) -> None:
    place.server.fail(name, "flip", at=SIZE // 2)
    error = place.refused(VerificationError, place.wanted(name))
    assert place.wanted(name).sha256 in error.message and "found" in error.message
    assert not list(place.target.glob("*.partial"))
    assert place.server.headers[1][1].get("Cache-Control") == "no-cache", "a proxy on the way may hold the damage"


@pytest.mark.fault("wrong-size", "error", "refuses the first byte too many; names expected and found bytes")
@pytest.mark.parametrize(("kind", "said"), [("longer", "more arrive"), ("short", "truncated: expected")])
def test_a_wrong_size_is_named(place: Place, kind: str, said: str) -> None:
    place.server.fail(NAMES[0], kind)
    assert said in place.refused(VerificationError).message


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param("404", "complete the mirror", marks=pytest.mark.fault("status-404", "error", "names the file that the source lacks")),
        pytest.param("403", "credentials", marks=pytest.mark.fault("status-403", "error", "says where credentials are looked for")),
        pytest.param("500", "later", marks=pytest.mark.fault("status-500", "error", "tries again with growing pauses, then says so")),
        pytest.param("503", "later", marks=pytest.mark.fault("status-503", "error", "tries again with growing pauses, then says so")),
    ],
)  # fmt: skip
def test_each_status_has_its_remedy(place: Place, status: str, said: str) -> None:
    place.server.fail(NAMES[0], status)
    error = place.refused(SourceError)
    assert f"answers {status}" in error.message and said in error.remedy
    assert len(place.server.requests) == (QUICK.attempts if status in ("500", "503") else 1)


@pytest.mark.fault("status-429", "environment", "waits for as long as the server asks, then goes on")
def test_retry_after_is_respected_but_not_for_ever(place: Place) -> None:
    waits: list[float] = []
    place.server.fail(NAMES[0], "429", times=1, seconds=1)

    class Stop(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    original = Live.__init__

    def patched(self, *arguments, **options):
        original(self, *arguments, **options)
        self.stop = Stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Live, "__init__", patched)
        place.fetch(place.wanted())
    assert waits == [1.0] and place.is_right(NAMES[0])
    (place.target / NAMES[0]).unlink()
    place.server.fail(NAMES[0], "429", seconds=7200)
    assert "asks to be left alone for 7200 s" in place.refused(SourceError).message


@pytest.mark.fault("trickle", "error", "gives a transfer up that is slower than 1,000 bytes per second for 30 s")
def test_a_trickle_is_given_up(place: Place) -> None:
    place.server.fail(NAMES[0], "trickle", seconds=0.02)
    error = place.refused(VerificationError, policy=replace(QUICK, window=0.2, attempts=1))
    assert "slower than 1,000 bytes per second" in error.message
    assert place.partial.stat().st_size > 0


@pytest.mark.fault("stall", "error", "gives up after 60 s without a byte; the next run goes on there")
def test_a_stall_is_given_up(place: Place) -> None:
    place.server.fail(NAMES[0], "stall", seconds=30)
    assert "no byte for 0 s" in place.refused(VerificationError, policy=replace(QUICK, stall=0.2)).message
    assert place.partial.stat().st_size == SIZE // 2


@pytest.mark.fault("redirect-loop", "error", "says that the redirects don't end")
def test_an_endless_redirect_ends(place: Place) -> None:
    place.server.fail(NAMES[0], "loop")
    assert "too many redirects" in place.refused(SourceError).message


@pytest.mark.fault("gzip-wrong", "error", "takes the bytes as they are: right ones pass, others are named")
def test_content_encoding_changes_no_byte(place: Place) -> None:
    place.server.fail(NAMES[0], "gzip-said")
    place.fetch(place.wanted())
    assert place.is_right(NAMES[0])
    (place.target / NAMES[0]).unlink()
    place.server.fail(NAMES[0], "gzip")
    size = len(gzip.compress((place.root / NAMES[0]).read_bytes()))
    error = place.refused(VerificationError, replace(place.wanted(), size=size))
    assert "served as Content-Encoding gzip" in error.message


@pytest.mark.fault("swapped-artefact", "error", "names expected and found SHA-256")
def test_another_file_in_its_place_is_refused(place: Place) -> None:
    place.server.fail(NAMES[0], "swap", other=place.root / NAMES[1])
    assert place.wanted(NAMES[1]).sha256 in place.refused(VerificationError).message


def test_mirrors_are_tried_in_order_and_all_are_named(place: Place, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = f"{place.server.url}/bad"
    with channelserver.serving(empty) as second:
        place.fetch(place.wanted(NAMES[0], bad, second.url, place.server.url))
        assert place.is_right(NAMES[0])
        assert [path for path in place.server.requests if path == f"/bad/{NAMES[0]}"]
        (place.target / NAMES[0]).unlink()
        place.server.fail(NAMES[0], "flip")
        error = place.refused(VerificationError, place.wanted(NAMES[0], second.url, place.server.url))
        assert "none of 2 sources" in error.message and second.url in error.message and "404" in error.message


@pytest.mark.parametrize("kind", ["stall", "slow"])
def test_a_mirror_that_falls_silent_is_left_for_the_next_and_asked_last_from_then_on(place: Place, kind: str) -> None:
    for name in NAMES:
        place.server.fail(name, kind, seconds=5)
    with channelserver.serving(place.root) as other:
        wanted = [place.wanted(name, place.server.url, other.url) for name in NAMES]
        place.fetch(*wanted, policy=replace(QUICK, jobs=1, stall=0.2))
        assert place.is_right() and len(other.requests) == 3
    assert set(place.server.requests) == {f"/{NAMES[0]}"}, "its patience is used up once, not for every file"


def test_what_one_mirror_began_another_one_goes_on_with(place: Place) -> None:
    place.server.fail(NAMES[0], "truncate", at=1000)
    with channelserver.serving(place.root) as second:
        place.fetch(place.wanted(NAMES[0], place.server.url, second.url))
        assert place.is_right(NAMES[0]) and second.headers[0][1]["Range"] == "bytes=1000-"


def test_a_failure_ends_the_other_transfers_at_once(place: Place) -> None:
    place.server.fail(NAMES[1], "stall", seconds=30)
    place.server.fail(NAMES[0], "404")
    with pytest.raises(SourceError, match="404"):
        place.fetch(policy=replace(QUICK, stall=60.0))
    reading = [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    for thread in reading:  # none waits for the rest of a body
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in reading)


def test_a_limit_holds_for_all_transfers_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    clock = [0.0]

    class Stop(threading.Event):
        def wait(self, timeout=None):
            slept.append(timeout)
            return False

    monkeypatch.setattr(limit.time, "monotonic", lambda: clock[0])
    limiter = limit.Limiter(1000.0)
    for _ in range(5):
        limiter.take(1000, Stop())
    assert slept == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert Policy(limit_rate=800.0).slowest == 25.0, "our own limit isn't taken for a slow server"


@pytest.mark.parametrize(
    ("text", "value"), [("500k", 500_000), ("10M", 10_000_000), ("4.5G", 4_500_000_000), ("99", 99)]
)
def test_amounts_are_read(text: str, value: int) -> None:
    assert parse_bytes(text, "--limit-rate") == value


@pytest.mark.parametrize("text", ["", "fast", "-1", "0", "1X", "10 MB please"])
def test_wrong_amounts_are_named(text: str) -> None:
    with pytest.raises(SatenvError, match="--limit-rate"):
        parse_bytes(text, "--limit-rate")


def test_too_little_space_is_told_before_anything_is_asked(place: Place) -> None:
    with pytest.raises(PrefixError, match="only .* free"):
        place.fetch(replace(place.wanted(), size=10**18))
    assert place.server.requests == []


def test_two_runs_at_once_fetch_a_file_once(place: Place) -> None:
    place.server.fail(NAMES[0], "slow", seconds=0.5, times=1)
    runs = [threading.Thread(target=place.fetch, args=(place.wanted(),)) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert place.is_right(NAMES[0]) and len(place.server.requests) == 1


def test_a_folder_is_a_source_like_any_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fetch(place.wanted(NAMES[0], place.root.as_uri()))
    assert place.is_right(NAMES[0]) and place.server.requests == []
    (place.target / NAMES[0]).unlink()
    broken = place.root / "broken"
    broken.mkdir()
    (broken / NAMES[0]).write_bytes(bytes(SIZE))
    with pytest.raises(VerificationError, match="none of 2 sources"):
        place.fetch(place.wanted(NAMES[0], broken.as_uri(), (place.root / "none").as_uri()))
    assert not (place.target / NAMES[0]).exists() and list(place.target.iterdir()) == []


@pytest.mark.fault("clock-past", "environment", "times are never compared: only bytes count")
def test_a_clock_in_the_past_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 86400.0)
    place.server.fail(NAMES[0], "503", times=1)
    place.fetch()
    assert place.is_right()


def test_nonsense_instead_of_an_address_is_one_error(place: Place) -> None:
    for url in ("http://", "gopher://x/y", f"http://127.0.0.1:{9}"):
        with pytest.raises(SourceError, match="can't be"):
            place.fetch(place.wanted(NAMES[0], url))


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "fifo"])
def test_what_lies_at_the_partial_file_is_never_written_through(place: Place, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    place.target.mkdir()
    if kind == "fifo":
        os.mkfifo(place.partial)
    elif kind == "hardlink":
        os.link(outside, place.partial)
    else:
        place.partial.symlink_to(outside if kind == "symlink" else tmp_path / "new")
    place.fetch(place.wanted())
    assert place.is_right(NAMES[0]) and outside.read_bytes() == b"theirs" and not (tmp_path / "new").exists()
    assert sorted(path.name for path in place.target.iterdir()) == [NAMES[0]]

"""Whatever a server does, a fetch ends: in time, in bytes, and in one message without its control characters."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.fetch import connection, reachable
from cogvideo_sat_env.fetch.index import Index
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.fetch.wanted import Policy, Wanted

QUICK = Policy(attempts=2, backoff=0.01, stall=0.4, window=0.4, max_size=1_000_000)
BODY = b"x" * 1000
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "PROBE_SECONDS", 0.4)


class HostileServer:
    """Answers each request with the pieces that `answer` gives, until it ends or the client hangs up."""

    def __init__(self, answer: Callable[[str], Iterator[bytes]]) -> None:
        self.answer, self.sent, self.requests = answer, 0, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                asked = client.recv(65536).decode("latin-1")
                self.requests += 1
                for piece in self.answer(asked):
                    client.sendall(piece)
                    self.sent += len(piece)
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


@contextmanager
def serving(answer: Callable[[str], Iterator[bytes]]) -> Iterator[HostileServer]:
    server = HostileServer(answer)
    try:
        yield server
    finally:
        server.close()


def _trickled(text: bytes, seconds: float = 0.05) -> Iterator[bytes]:
    for byte in text:
        yield bytes([byte])
        time.sleep(seconds)


def _forever(piece: bytes, seconds: float = 0.0) -> Iterator[bytes]:
    while True:
        yield piece
        if seconds:
            time.sleep(seconds)


def _head(*lines: bytes, status: bytes = OK) -> bytes:
    return status + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _slow_head(_: str) -> Iterator[bytes]:
    yield from _trickled(_head(b"Content-Length: 1000", b"X: " + b"y" * 500))


def _endless_100(_: str) -> Iterator[bytes]:
    yield from _forever(b"HTTP/1.1 100 Continue\r\n\r\n")


def _slow_100(_: str) -> Iterator[bytes]:
    yield from _forever(b"HTTP/1.1 100 Continue\r\n\r\n", 0.1)


def _endless_hints(_: str) -> Iterator[bytes]:
    yield from _forever(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")


def _endless_interim_headers(_: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 100 Continue\r\n"
    yield from _forever(b"X: y\r\n")


def _endless_headers(_: str) -> Iterator[bytes]:
    yield OK
    yield from _forever(b"X: y\r\n")


def _endless_line(_: str) -> Iterator[bytes]:
    yield OK + b"X: "
    yield from _forever(b"y" * 1000)


def _endless_status(_: str) -> Iterator[bytes]:
    yield from _forever(b"y" * 1000)


def _redirect(asked: str) -> Iterator[bytes]:
    yield _head(b"Location: /next", b"Content-Length: 0", status=b"HTTP/1.1 302 Found\r\n")


def _redirect_with_body(_: str) -> Iterator[bytes]:
    yield _head(b"Location: /next", status=b"HTTP/1.1 302 Found\r\n")
    yield from _forever(b"z" * 65536)


def _redirect_slowly(_: str) -> Iterator[bytes]:
    time.sleep(0.05)
    yield from _redirect("")


def _endless_body(_: str) -> Iterator[bytes]:
    yield _head(b"Connection: close")
    yield from _forever(b"z" * 65536)


def _endless_chunks(_: str) -> Iterator[bytes]:
    yield _head(b"Transfer-Encoding: chunked")
    yield from _forever(b"1000\r\n" + b"z" * 4096 + b"\r\n")


def _endless_trailer(_: str) -> Iterator[bytes]:
    yield _head(b"Transfer-Encoding: chunked") + b"3e8\r\n" + BODY + b"\r\n0\r\n"
    yield from _forever(b"X: y\r\n", 0.01)


def _endless_chunk_size(_: str) -> Iterator[bytes]:
    yield _head(b"Transfer-Encoding: chunked") + b"3"
    yield from _forever(b"0" * 100, 0.01)


def _huge_announced(_: str) -> Iterator[bytes]:
    yield _head(b"Content-Length: 99999999999999999")
    yield from _forever(b"z" * 65536)


def _byte_and_stall(_: str) -> Iterator[bytes]:
    yield _head(b"Content-Length: 1000") + b"x"
    time.sleep(5)


ENDLESS = [
    _slow_head, _endless_100, _slow_100, _endless_hints, _endless_interim_headers, _endless_headers, _endless_line,
    _endless_status, _redirect, _redirect_with_body, _redirect_slowly, _endless_body, _endless_chunks, _endless_trailer,
    _endless_chunk_size, _huge_announced, _byte_and_stall,
]  # fmt: skip


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


def _fetch(server: HostileServer, target: Path, size: int | None, policy: Policy = QUICK) -> None:
    wanted = Wanted("a", target / "a", hashlib.sha256(BODY).hexdigest(), (f"{server.url}/a",), size)
    fetch_files([wanted], title="t", what="w", progress=Silent(), policy=policy)


@pytest.mark.slow
@pytest.mark.fault("endless-server", "error", "head, interim answers, redirects and body are bounded in time and bytes")
@pytest.mark.parametrize("answer", ENDLESS)
@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_fetch_from_a_server_without_end_ends(tmp_path: Path, answer, size: int | None) -> None:
    with serving(answer) as server:
        begun = time.monotonic()
        with pytest.raises((SourceError, VerificationError)) as caught:
            _fetch(server, tmp_path / "target", size)
        assert time.monotonic() - begun < 10 and server.url in caught.value.message and caught.value.remedy
        assert server.requests <= 2 * (connection._REDIRECTS + 2)
        left = [path for path in (tmp_path / "target").iterdir() if path.stat().st_size > len(BODY)]
        assert left == [], "what broke off for its size isn't kept"
        assert why_unreachable(f"{server.url}/a") is not None or answer not in ENDLESS[:11]


def test_a_file_of_unknown_size_may_be_as_large_as_the_ceiling(tmp_path: Path) -> None:
    def answer(_: str) -> Iterator[bytes]:
        yield _head(b"Content-Length: 1000") + BODY

    with serving(answer) as server:
        with pytest.raises(VerificationError, match="more than 999 B.*doesn't say its size") as caught:
            _fetch(server, tmp_path / "target", None, replace(QUICK, max_size=999))
        assert "--max-file-size" in caught.value.remedy and server.requests == 1
        _fetch(server, tmp_path / "target", None, replace(QUICK, max_size=1000))
        assert (tmp_path / "target" / "a").read_bytes() == BODY


MALFORMED = [
    b"\x1b[31mHELLO\x1b[0m\r\n\r\n", b"HTTP/1.1 xyz OK\r\n\r\n", b"HTTP/1.1 99999999999 OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 404 \x1b]0;title\x07\x1b[2J\r\nContent-Length: 0\r\n\r\n", b"\x00\x01\x02",
    _head(b"Content-Length: 10, 20"), _head(b"Content-Length: -5") + BODY[1:], _head(b"Content-Length: 1e3") + BODY[1:],
    _head(b"Content-Length: 1000", b"Content-Encoding: \x1b[31mred") + b"y" * 1000,
    _head(b"Content-Range: bytes " + b"9" * 5000 + b"-", status=b"HTTP/1.1 206 Partial\r\n") + BODY,
    _head(b"Retry-After: \xb2", b"Content-Length: 0", status=b"HTTP/1.1 503 Busy\r\n"),
    _head(b"Retry-After: " + b"9" * 400, b"Content-Length: 0", status=b"HTTP/1.1 503 Busy\r\n"),
    _head(b"Retry-After: Mon, 01 Jan 0001 00:00:00 GMT", b"Content-Length: 0", status=b"HTTP/1.1 503 Busy\r\n"),
    _head(b"Location: http://[::1", b"Content-Length: 0", status=b"HTTP/1.1 302 Found\r\n"),
    _head(b"Location: file:///etc/passwd", b"Content-Length: 0", status=b"HTTP/1.1 302 Found\r\n"),
    _head(b"Location: http://\xff\xfe\x1b/", b"Content-Length: 0", status=b"HTTP/1.1 302 Found\r\n"),
    _head(b"Location: //a" + b"b" * 300 + b"/", b"Content-Length: 0", status=b"HTTP/1.1 302 Found\r\n"),
    _head(b"no colon", b": empty", b"\x00nul: x", b"Content-Length: 3") + b"abc",
    _head(b"Transfer-Encoding: chunked") + b"zz\r\n", _head(b"Transfer-Encoding: chunked") + b"-5\r\nabc",
    _head(b"Set-Cookie: " + b";=" * 3000, b"Content-Length: 3") + b"abc",
    _head(b"WWW-Authenticate: \x1b", b"Content-Length: 0", status=b"HTTP/1.1 401 \x9b31m\r\n"),
]  # fmt: skip


@pytest.mark.fault("malformed-head", "error", "named as the server's fault, its control characters escaped")
@pytest.mark.parametrize("number", range(len(MALFORMED)))
@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_malformed_answer_is_an_error_of_the_server_in_words(tmp_path: Path, number: int, size: int | None) -> None:
    with serving(lambda _: iter([MALFORMED[number]])) as server:
        with pytest.raises(SatenvError) as caught:
            _fetch(server, tmp_path / "target", size)
        why = why_unreachable(f"{server.url}/a")
        with pytest.raises(SourceError) as index:
            Index([server.url]).files("x")
    texts = [caught.value.message, caught.value.remedy, index.value.message, why or ""]
    assert all(character.isprintable() or character == "\n" for text in texts for character in text), texts
    assert server.url in caught.value.message and all(len(text) < 1500 for text in texts)


@pytest.mark.parametrize("first", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"])
def test_an_interim_answer_or_two_change_nothing(tmp_path: Path, first: bytes) -> None:
    with serving(lambda _: iter([first, first, _head(b"Content-Length: 1000"), BODY])) as server:
        _fetch(server, tmp_path / "target", len(BODY))
    assert (tmp_path / "target" / "a").read_bytes() == BODY


@pytest.mark.parametrize(
    "page",
    [
        b'{"files": [{"filename": 3, "url": "x"}]}', b'{"files": [{"filename": "a", "url": 5}]}', b"[" * 100_000, b"{}",
        b'{"files": [{"filename": "a", "url": "http://[", "hashes": {}}]}', b'{"files": 3}', b"null",
        b'{"files": [{"filename": "a", "url": "a", "hashes": {"sha256": 7}}]}',
    ],
)  # fmt: skip
def test_a_page_of_an_index_that_is_none_is_one_error(page: bytes) -> None:
    head = _head(b"Content-Type: application/vnd.pypi.simple.v1+json", b"Content-Length: %d" % len(page))
    with serving(lambda _: iter([head + page])) as server, pytest.raises(SourceError, match="no index page"):
        Index([server.url]).files("x")


def test_an_index_is_not_given_our_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_KEY", "s3cret")
    page = b'<a href="http://evil.example/$CLOUD_KEY/${CLOUD_KEY}/a-1.whl">a-1.whl</a>'
    with serving(lambda _: iter([_head(b"Content-Length: %d" % len(page)) + page])) as server:
        (found,) = Index([server.url]).files("a")
    assert "s3cret" not in found.url.reveal() and found.file_name == "a-1.whl"


def test_the_ceiling_is_raised_by_an_option() -> None:
    import os

    from click.testing import CliRunner

    from cogvideo_sat_env.cli import cli
    from cogvideo_sat_env.fetch.wanted import MAX_FILE_SIZE

    for command in (["create"], ["update"], ["mirror", "x"], ["bundle", "pack", "x"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(MAX_FILE_SIZE, "1G")
            patch.setenv("SATENV_PROJECT", "/nowhere")
            CliRunner().invoke(cli, [*command, "--max-file-size", "10G"])
            assert os.environ[MAX_FILE_SIZE] == "10G" and Policy().max_size == 10 * 10**9
            refused = CliRunner().invoke(cli, [*command, "--max-file-size", "much"])
            assert "--max-file-size 'much'" in str(refused.exception)

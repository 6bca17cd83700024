"""A loopback HTTP server for channels and for a simple package index, which misbehaves where it is told to."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import html
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CHUNK = 64 * 1024


@dataclass
class Fault:
    """How one file is served wrongly.

    kind   truncate (body ends early), short (whole, but shorter than it should be), flip (one bit), longer (bytes
           after the end), reset (connection reset in the middle), slow (`seconds` before the body), loop (endless
           redirect), stall (half, then nothing for `seconds`), trickle (a byte every `seconds`), no-range (Range is
           ignored), gzip-said (Content-Encoding: gzip before a plain body), gzip (a body that is gzipped), swap (the
           file `other` in its place), or an HTTP status as "404", with `seconds` as its Retry-After
    times  how often; None: always
    at     the byte at which a body is cut off or flipped; None: in the middle
    """

    kind: str
    times: int | None = None
    seconds: float = 0.0
    at: int | None = None
    other: Path | None = None


class ChannelServer:
    """Serves the folder `root` at `url`; below `url`/simple/ a package index of the files in `root`/files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.headers: list[tuple[str, dict[str, str]]] = []  # path and headers of each request
        self.login = ""  # the Authorization that every request must have
        self.redirect_to = ""  # where everything is sent
        self._faults: dict[str, Fault] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def index_url(self) -> str:
        """The address of the package index, for PIP_INDEX_URL."""
        return f"{self.url}/simple/"

    def fail(
        self, file_name: str, kind: str, *, times: int | None = None, seconds: float = 0.0, at: int | None = None,
        other: Path | None = None,
    ) -> None:  # fmt: skip
        """Serve the file with this name wrongly from now on."""
        self._faults[file_name] = Fault(kind, times, seconds, at, other)

    def heal(self) -> None:
        """Serve everything rightly again, and forget the requests."""
        self._faults.clear()
        self.requests.clear()
        self.headers.clear()

    def fetched(self, ending: str = ".conda") -> list[str]:
        """Return the paths ending so that were asked for, in order."""
        return [path for path in self.requests if path.endswith(ending)]

    def close(self) -> None:
        """Stop; the port answers no more."""
        self._server.shutdown()
        self._server.server_close()

    def fault_for(self, file_name: str) -> Fault | None:
        """Return the fault to commit now for a file, counting it."""
        with self._lock:
            fault = self._faults.get(file_name)
            if fault is None or fault.times == 0:
                return None
            if fault.times is not None:
                fault.times -= 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    owner: ChannelServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client to acknowledge its head

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # clients hang up; that's what is tested
            super().handle()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append(path)
        self.owner.headers.append((path, dict(self.headers)))
        if self.owner.redirect_to:
            self.send_response(302)
            self.send_header("Location", self.owner.redirect_to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.owner.login and self.headers.get("Authorization") != self.owner.login:
            self._plain(401, b"who are you\n")
            return
        fault = self.owner.fault_for(path.rpartition("/")[2])
        if fault and fault.kind.isdigit():
            self._plain(int(fault.kind), b"no\n", retry_after=fault.seconds)
            return
        if fault and fault.kind == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.startswith("/simple/"):
            self._index_page(path.removeprefix("/simple/").strip("/"))
            return
        file = (self.owner.root / path.lstrip("/")).resolve()
        if not file.is_relative_to(self.owner.root.resolve()) or not file.is_file():
            self._plain(404, b"no such file\n")
            return
        self._file(file, fault)

    def _plain(self, status: int, body: bytes, kind: str = "text/plain", retry_after: float = 0.0) -> None:
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", f"{retry_after:.0f}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _index_page(self, project: str) -> None:
        wanted = project.lower().replace("_", "-")
        files = [
            path
            for path in sorted((self.owner.root / "files").glob("*"))
            if path.name.lower().replace("_", "-").startswith(f"{wanted}-")
        ]
        if not files:
            self._plain(404, b"no such project\n")
            return
        links = "".join(
            f'<a href="/files/{html.escape(path.name)}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">'
            f"{html.escape(path.name)}</a>\n"
            for path in files
        )
        self._plain(200, f"<!DOCTYPE html><html><body>\n{links}</body></html>\n".encode(), "text/html")

    def _file(self, file: Path, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        if kind == "swap":
            file = fault.other
        elif kind == "gzip":
            packed = file.with_name(f"{file.name}.packed")
            packed.write_bytes(gzip.compress(file.read_bytes()))
            file = packed
        size = file.stat().st_size
        etag = f'"{file.stat().st_mtime_ns:x}-{size:x}"'
        first = self._first_byte(etag) if kind not in ("no-range", "short", "longer", "flip") else 0
        if first >= size:
            self._plain(416, b"")
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", "text/html" if file.suffix == ".html" else "application/octet-stream")
        self.send_header("ETag", etag)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        if kind.startswith("gzip"):
            self.send_header("Content-Encoding", "gzip")
        announced = {"short": size // 2, "longer": size + 10}.get(kind, size - first)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if kind == "slow":
            time.sleep(fault.seconds)
        middle = fault.at if fault and fault.at is not None else size // 2
        stop = middle if kind in ("truncate", "short", "reset", "stall") else size
        flip = middle if kind == "flip" else None
        for piece in _pieces(file, first, stop, flip, 1 if kind == "trickle" else CHUNK):
            self.wfile.write(piece)
            if kind == "trickle":
                time.sleep(fault.seconds)
        if kind == "longer":
            self.wfile.write(b"x" * 10)
        if kind == "stall":
            self.wfile.flush()
            time.sleep(fault.seconds)
        if kind in ("truncate", "reset", "stall"):
            self.close_connection = True
            if kind == "reset":  # RST in place of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile.flush()
            self.connection.close()

    def _first_byte(self, etag: str) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(asked[1]) if asked and self.headers.get("If-Range", etag) == etag else 0


def _pieces(file: Path, first: int, stop: int, flip: int | None, chunk: int) -> Iterator[bytes]:
    sent = first
    with open(file, "rb") as stream:
        stream.seek(first)
        while sent < stop and (piece := stream.read(min(chunk, stop - sent))):
            if flip is not None and sent <= flip < sent + len(piece):
                damaged = bytearray(piece)
                damaged[flip - sent] ^= 1
                piece = bytes(damaged)
            yield piece
            sent += len(piece)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[ChannelServer]:
    """Serve `root` for the length of a block."""
    server = ChannelServer(root)
    try:
        yield server
    finally:
        server.close()

"""A loopback HTTP server for channels and for a simple package index, which misbehaves where it is told to."""

from __future__ import annotations

import contextlib
import hashlib
import html
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
           redirect), stall (half, then nothing for `seconds`), or an HTTP status as "404"
    times  how often; None: always
    """

    kind: str
    times: int | None = None
    seconds: float = 0.0


class ChannelServer:
    """Serves the folder `root` at `url`; below `url`/simple/ a package index of the files in `root`/files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
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

    def fail(self, file_name: str, kind: str, *, times: int | None = None, seconds: float = 0.0) -> None:
        """Serve the file with this name wrongly from now on."""
        self._faults[file_name] = Fault(kind, times, seconds)

    def heal(self) -> None:
        """Serve everything rightly again, and forget the requests."""
        self._faults.clear()
        self.requests.clear()

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

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # clients hang up; that's what is tested
            super().handle()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append(path)
        fault = self.owner.fault_for(path.rpartition("/")[2])
        if fault and fault.kind.isdigit():
            self._plain(int(fault.kind), b"no\n")
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

    def _plain(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
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
        size = file.stat().st_size
        kind = fault.kind if fault else ""
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        announced = {"short": size // 2, "longer": size + 10}.get(kind, size)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if kind == "slow":
            time.sleep(fault.seconds)
        stop = size // 2 if kind in ("truncate", "short", "reset", "stall") else size
        for piece in _pieces(file, stop, flip=size // 2 if kind == "flip" else None):
            self.wfile.write(piece)
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


def _pieces(file: Path, stop: int, flip: int | None) -> Iterator[bytes]:
    sent = 0
    with open(file, "rb") as stream:
        while sent < stop and (piece := stream.read(min(CHUNK, stop - sent))):
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

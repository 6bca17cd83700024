"""A loopback package server: the uploads of quetz, prefix.dev and Artifactory, and the channel as it is then served.

Run as a program: `packageserver.py ROOT LOG`. It prints its address, then serves until it is ended. Packages lie in
ROOT/CHANNEL/SUBDIR; an upload without the right key is refused, and so are other bytes under a name that is taken.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import json
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rattler import IndexJson
from rattler.index import index_fs

KEY = "server-key-never-shown"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    root, log = Path(), Path()  # set below

    def log_message(self, *_: object) -> None:
        """Standard error is for faults."""

    def do_GET(self) -> None:
        """Serve a file of a channel; quetz has it below /get."""
        path = self.root / urlsplit(self.path).path.removeprefix("/get").strip("/")
        self._send(200, path.read_bytes()) if path.is_file() else self._send(404, b"no such file")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take an upload: to quetz as the body, to prefix.dev as a form."""
        parts = urlsplit(self.path)
        body, query = self._body(), parse_qs(parts.query)
        if parts.path.startswith("/api/channels/"):
            self._keep(parts.path.split("/")[3], parts.path.rpartition("/")[2], body, query["sha256"][0])
            return
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()
        channel = parts.path.rpartition("/")[2]
        self._keep(channel, part.get_filename(), part.get_payload(decode=True), part["x-file-sha256"], query)

    def do_PUT(self) -> None:
        """Take an upload as Artifactory does: to the file's own address."""
        channel, _, name = urlsplit(self.path).path.strip("/").split("/")
        body = self._body()
        self._keep(channel, name, body, hashlib.sha256(body).hexdigest(), {"force": ["true"]})

    def _keep(self, channel: str, name: str, body: bytes, sha256: str, query: dict | None = None) -> None:
        with self.lock, open(self.log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"method": self.command, "path": self.path, "name": name}) + "\n")
        if KEY not in (self.headers.get("x-api-key"), self.headers.get("authorization", "").removeprefix("Bearer ")):
            self._send(401, b"unknown key")
            return
        if hashlib.sha256(body).hexdigest() != sha256:
            self._send(400, b"wrong checksum")
            return
        with self.lock, tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / name
            archive.write_bytes(body)
            target = self.root / channel / IndexJson.from_package_archive(archive).subdir / name
            if target.exists() and (query or {}).get("force") != ["true"]:
                self._send(409, b"it exists")
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)
            (self.root / channel / "noarch").mkdir(exist_ok=True)
            asyncio.run(index_fs(self.root / channel, write_shards=False, force=True))
        self._send(201, b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().strip(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Handler.root, Handler.log = Path(sys.argv[1]), Path(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

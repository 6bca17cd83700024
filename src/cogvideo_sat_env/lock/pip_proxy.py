"""A simple index on loopback, for conda-lock's pip resolver, in front of the site's own.

The resolver reads the PyPI metadata of packages that conda provides and would lock their pip dependencies as well (all
the nvidia-*-cu12 wheels of torch). For those names the proxy answers with a wheel of conda's version that declares
nothing: conda has solved their dependencies. Every other name is the site's index, passed on.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from packaging.utils import NormalizedName, canonicalize_name

from cogvideo_sat_env.base.errors import SatenvError, SourceError
from cogvideo_sat_env.base.simple_page import simple_page
from cogvideo_sat_env.fetch.index import ACCEPT, UNREAD, IndexFile, NoPageError, literal, parse_page
from cogvideo_sat_env.fetch.session import Sessions

TIMEOUT = 60  # seconds that the site's index may take for one page


@contextmanager
def proxy(index_url: str, provided: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Serve the index; `provided` maps PyPI names to the versions that conda brings.

    Yields the URL of the simple index and a list that collects, in words, what the site's index refused.
    """
    refusals: list[str] = []
    stubs = {canonicalize_name(name): version for name, version in provided.items()}
    index, sessions = literal(index_url), Sessions()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.strip("/").split("/")
            if len(parts) == 2 and parts[0] == "simple":
                self._page(canonicalize_name(parts[1]))
            elif len(parts) == 2 and parts[0] == "conda":
                name, version = parts[1].split("-")[:2]
                self._send(200, "application/zip", _stub_wheel(name, version))
            else:
                self._send(404, "text/plain", b"no such page")

        def _page(self, name: NormalizedName) -> None:
            if name in stubs:
                version = stubs[name]
                file_name = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
                digest = hashlib.sha256(_stub_wheel(name.replace("-", "_"), version)).hexdigest()
                self._send(200, "text/html", simple_page([(f"/conda/{file_name}#sha256={digest}", file_name, {})]))
                return
            try:
                with sessions.get(index / f"{name}/", {"Accept": ACCEPT}, TIMEOUT) as answer:
                    files = parse_page(answer) if answer.status_code == 200 else []
            except (*UNREAD, NoPageError, SatenvError) as error:
                refusals.append(f"{name}: {type(error).__name__}")
                self._send(502, "text/plain", b"index not reached")
                return
            if answer.status_code != 200:
                refusals.append(f"{name}: status {answer.status_code}")
                self._send(answer.status_code, "text/plain", b"refused by the index")
                return
            self._send(200, "text/html", simple_page(_link(file) for file in files if not file.is_yanked))

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the requests out of the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple", refusals
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _link(file: IndexFile) -> tuple[str, str, dict[str, str]]:
    python = {"data-requires-python": file.requires_python} if file.requires_python else {}
    return file.url.reveal() + (f"#sha256={file.sha256}" if file.sha256 else ""), file.file_name, python


def _stub_wheel(name: str, version: str) -> bytes:
    """Return a wheel of nothing but metadata; it is read by the resolver and never installed."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: satenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)  # ZipInfo's fixed date: the same bytes each time
    return buffer.getvalue()


def file_sizes(urls: Mapping[str, str]) -> dict[str, int]:
    """Return bytes by SHA-256 for files at `urls` (SHA-256 -> URL); what a server doesn't say is left out.

    Raises SourceError when a server can't be reached at all.
    """
    sizes, sessions = {}, Sessions()
    for sha256, url in urls.items():
        try:
            with sessions.get(literal(url), {}, TIMEOUT) as answer:
                length = answer.headers.get("Content-Length", "")
        except UNREAD as error:
            name = url.rpartition("/")[2]
            raise SourceError(
                f"the index's file server didn't answer for {name}: {type(error).__name__}", None
            ) from error
        if answer.ok and length.isdigit():
            sizes[sha256] = int(length)
    return sizes

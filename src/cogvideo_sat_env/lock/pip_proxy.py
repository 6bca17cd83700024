"""A simple index on loopback, for conda-lock's pip resolver, in front of the site's own.

The resolver reads the PyPI metadata of packages that conda provides and would lock their pip dependencies as well (all
the nvidia-*-cu12 wheels of torch). For those names the proxy answers with a wheel of conda's version that declares
nothing: conda has solved their dependencies. Every other name is the site's index, passed on.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urljoin

import requests
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.base.simple_page import simple_page

TIMEOUT = 60  # seconds that the site's index may take for one page


@contextmanager
def proxy(index_url: str, provided: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Serve the index; `provided` maps PyPI names to the versions that conda brings.

    Yields the URL of the simple index and a list that collects, in words, what the site's index refused.
    """
    refusals: list[str] = []
    stubs = {canonicalize_name(name): version for name, version in provided.items()}
    session = requests.Session()
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("PIP_CERT") or True

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

        def _page(self, name: str) -> None:
            if name in stubs:
                version = stubs[name]
                file_name = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
                digest = hashlib.sha256(_stub_wheel(name.replace("-", "_"), version)).hexdigest()
                self._send(200, "text/html", simple_page([(f"/conda/{file_name}#sha256={digest}", file_name, {})]))
                return
            url = f"{index_url.rstrip('/')}/{name}/"
            try:
                answer = session.get(url, headers={"Accept": "text/html"}, timeout=TIMEOUT)
            except requests.RequestException as error:
                refusals.append(f"{name}: {type(error).__name__}")
                self._send(502, "text/plain", b"index not reached")
                return
            if answer.status_code != 200:
                refusals.append(f"{name}: status {answer.status_code}")
                self._send(answer.status_code, "text/plain", b"refused by the index")
                return
            links = _Links(answer.url)
            links.feed(answer.text)
            self._send(200, "text/html", simple_page(links.found))

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


class _Links(HTMLParser):
    """The links of one page of a simple index, made absolute."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base, self.found = base, []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "a" and found.get("href") and "data-yanked" not in found:
            kept = {key: value or "" for key, value in found.items() if key == "data-requires-python"}
            url = urljoin(self._base, found["href"])
            self.found.append((url, url.rpartition("/")[2].partition("#")[0], kept))


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
    sizes = {}
    verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("PIP_CERT") or True
    for sha256, url in urls.items():
        try:
            answer = requests.head(url, timeout=TIMEOUT, allow_redirects=True, verify=verify)
        except requests.RequestException as error:
            name = url.rpartition("/")[2]
            raise SourceError(
                f"the index's file server didn't answer for {name}: {type(error).__name__}", None
            ) from error
        length = answer.headers.get("Content-Length", "")
        if answer.ok and length.isdigit():
            sizes[sha256] = int(length)
    return sizes

"""A simple index on loopback, for conda-lock's pip resolver, in front of the site's own or of a frozen one.

The resolver reads the PyPI metadata of packages that conda provides and would lock their pip dependencies as well (all
the nvidia-*-cu12 wheels of torch). For those names the proxy answers with a wheel of conda's version that declares
nothing: conda has solved their dependencies. Every other name is what the index has.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

from packaging.utils import NormalizedName, canonicalize_name

from cogvideo_sat_env.base.errors import SatenvError, SourceError
from cogvideo_sat_env.base.simple_page import simple_page
from cogvideo_sat_env.fetch.index import ACCEPT, UNREAD, IndexFile, NoPageError, literal, parse_page
from cogvideo_sat_env.fetch.session import Sessions
from cogvideo_sat_env.lock import pip_index

TIMEOUT = 60  # seconds that the site's index may take for one page
_FILES = "files"  # the folder of frozen files: their addresses stand for bytes that nobody serves


class RefusalError(Exception):
    """What an index answers in place of a page: an HTTP status, and the reason in words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class SitePages:
    """The simple index at `url`."""

    def __init__(self, url: str) -> None:
        self._index, self._sessions = literal(url), Sessions()

    def files(self, name: str) -> list[IndexFile]:
        """Return what the index has of a project. Raises RefusalError."""
        try:
            with self._sessions.get(self._index / f"{name}/", {"Accept": ACCEPT}, TIMEOUT) as answer:
                files = parse_page(answer) if answer.status_code == 200 else []
        except (*UNREAD, NoPageError, SatenvError) as error:
            raise RefusalError(502, type(error).__name__) from error
        if answer.status_code != 200:
            raise RefusalError(answer.status_code, f"status {answer.status_code}")
        return files

    def metadata(self, name: str, file_name: str) -> bytes:
        """Return nothing: the resolver reads the files."""
        return b""


class FrozenPages:
    """What `satenv freeze` kept of an index."""

    def __init__(self, projects: Mapping[str, pip_index.Project]) -> None:
        self._projects = projects

    def files(self, name: str) -> list[IndexFile]:
        """Return what was frozen of a project. Raises RefusalError for one that was not."""
        if name not in self._projects:
            raise RefusalError(404, "not in the frozen metadata")
        return list(self._projects[name].files)

    def metadata(self, name: str, file_name: str) -> bytes:
        """Return a release's metadata. Raises RefusalError where its requirements were not frozen."""
        version = str(pip_index.release_of(file_name))
        if version not in self._projects[name].releases:
            raise RefusalError(404, f"the requirements of {version} are not in the frozen metadata")
        return pip_index.metadata(name, version, self._projects[name].releases[version])


Pages = SitePages | FrozenPages


@dataclass
class Served:
    """A running proxy, and what it learns: refusals in words, bytes by SHA-256, projects with files of unknown age."""

    url: str
    refusals: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    undated: set[str] = field(default_factory=set)


@contextmanager
def proxy(pages: Pages, provided: Mapping[str, str], until: str = "") -> Iterator[Served]:
    """Serve an index; `provided` maps PyPI names to the versions that conda brings.

    Files uploaded after `until` (ISO 8601, UTC) are left out; those whose age the index doesn't say are not.
    """
    stubs = {canonicalize_name(name): version for name, version in provided.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = unquote(self.path).strip("/").split("/")
            if len(parts) == 2 and parts[0] == "simple":
                self._page(canonicalize_name(parts[1]))
            elif len(parts) == 2 and parts[0] == "conda":
                name, version = parts[1].split("-")[:2]
                self._send(200, "application/zip", _stub_wheel(name, version))
            elif len(parts) == 3 and parts[0] == _FILES and parts[2].endswith(".metadata"):
                self._answer(parts[1], lambda: pages.metadata(parts[1], parts[2].removesuffix(".metadata")))
            else:
                self._send(404, "text/plain", b"no such page")

        def _answer(self, name: str, read: Callable[[], bytes]) -> None:
            try:
                self._send(200, "text/html", read())
            except RefusalError as refusal:
                served.refusals.append(f"{name}: {refusal}")
                self._send(refusal.status, "text/plain", b"not answered by the index")

        def _page(self, name: NormalizedName) -> None:
            if name in stubs:
                version = stubs[name]
                file_name = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
                digest = hashlib.sha256(_stub_wheel(name.replace("-", "_"), version)).hexdigest()
                self._send(200, "text/html", simple_page([(f"/conda/{file_name}#sha256={digest}", file_name, {})]))
                return
            self._answer(name, lambda: simple_page(_link(name, file) for file in self._kept(name)))

        def _kept(self, name: str) -> list[IndexFile]:
            files = [file for file in pages.files(name) if not file.is_yanked]
            served.sizes.update({file.sha256: file.size for file in files if file.sha256 and file.size is not None})
            if until and not all(file.uploaded for file in files):
                served.undated.add(name)
            return [file for file in files if not (until and file.uploaded > until)]

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
    served = Served(f"http://127.0.0.1:{server.server_port}/simple")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _link(name: str, file: IndexFile) -> tuple[str, str, dict[str, str]]:
    """Return the link of a file: to the index, or, frozen, to what stands for its bytes beside its metadata."""
    more = {"data-requires-python": file.requires_python} if file.requires_python else {}
    url = file.url.reveal()
    if not url:
        url, more = f"/{_FILES}/{name}/{quote(file.file_name)}", {**more, "data-core-metadata": "true"}
    return url + (f"#sha256={file.sha256}" if file.sha256 else ""), file.file_name, more


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

"""A file of the package index is found by its SHA-256, in both formats that indexes speak."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.fetch.index import Index

RIGHT, OTHER = "a" * 64, "b" * 64
PAGES = {
    "/json/some-name/": ("application/vnd.pypi.simple.v1+json", json.dumps({"files": [
        {"filename": "some_name-1.0.tar.gz", "url": "../../files/one", "hashes": {"sha256": OTHER}},
        {"filename": "some_name-1.0-py3-none-any.whl", "url": "../../files/two", "hashes": {"sha256": RIGHT}, "size": 7},
    ]})),
    "/html/some-name/": ("text/html; charset=utf-8", f"""<!DOCTYPE html><html><head><base href="/files/"></head><body>
        <a href="some_name-1.0.tar.gz#sha256={OTHER}">x</a><a href="two%2Bx.whl#sha256={RIGHT}" data-yanked>y</a>
        <a href="nohash-1.0.whl">z</a></body></html>"""),
    "/broken/some-name/": ("application/vnd.pypi.simple.v1+json", "{\"files\": 3}"),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, body = PAGES.get(self.path, ("text/plain", ""))
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pin(sha256: str = RIGHT, file_name: str = "some_name-1.0-py3-none-any.whl") -> PipPin:
    return PipPin("Some.Name", "1.0", sha256, file_name)


def test_json_and_html_name_the_same_file(url: str) -> None:
    assert Index([f"{url}/json"]).locate(pin()) == (f"{url}/files/two",)
    assert Index([f"{url}/html/"]).locate(pin()) == (f"{url}/files/two%2Bx.whl",)
    assert Index([f"{url}/none", f"{url}/json"]).locate(pin()) == (f"{url}/files/two",)


def test_without_a_hash_the_name_counts_and_the_download_is_proven_anyway(url: str) -> None:
    assert Index([f"{url}/html"]).locate(pin("c" * 64, "nohash-1.0.whl")) == (f"{url}/files/nohash-1.0.whl",)


@pytest.mark.parametrize(
    ("path", "sha256", "said"),
    [
        ("json", "c" * 64, "other bytes under that name"),
        ("none", RIGHT, "it answers 404"),
        ("broken", RIGHT, "no index page"),
    ],
)
def test_what_an_index_lacks_is_named(url: str, path: str, sha256: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        Index([f"{url}/{path}"]).locate(pin(sha256))
    assert url not in caught.value.message, "an index's address may hold a login: it is never shown"


def test_no_index_at_all_is_named() -> None:
    with pytest.raises(SourceError, match="no index is configured"):
        Index([]).locate(pin())

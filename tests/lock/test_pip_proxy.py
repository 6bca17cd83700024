"""The loopback index in front of the site's: conda's packages answered, the rest passed on."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from cogvideo_sat_env.lock.pip_proxy import file_sizes, proxy

PAGE = (
    '<a href="../../files/sat-1.0.whl#sha256=aa" data-requires-python="&gt;=3.8">sat-1.0.whl</a>'
    '<a href="/files/sat-2.0.whl" data-yanked="">sat-2.0.whl</a>'
)


@pytest.fixture
def site():
    """The site's own simple index."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = PAGE.encode()
            self.send_response(200 if self.path == "/simple/sat/" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_sites_links_are_passed_on_absolute_and_without_yanked_files(site):
    with proxy(f"{site}/simple", {}) as (url, refusals):
        text = requests.get(f"{url}/sat/", timeout=9).text
    assert f'<a href="{site}/files/sat-1.0.whl#sha256=aa" data-requires-python="&gt;=3.8">' in text
    assert "2.0" not in text
    assert refusals == []


def test_what_conda_provides_declares_no_dependencies(site):
    with proxy(f"{site}/simple", {"Typing_Extensions": "4.16.0"}) as (url, _):
        page = requests.get(f"{url}/typing-extensions/", timeout=9).text
        path, _, digest = page.partition('href="')[2].partition('"')[0].partition("#sha256=")
        data = requests.get(url.removesuffix("/simple") + path, timeout=9).content
    assert hashlib.sha256(data).hexdigest() == digest
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        metadata = archive.read("typing_extensions-4.16.0.dist-info/METADATA").decode()
    assert "Version: 4.16.0" in metadata and "Requires-Dist" not in metadata


def test_what_the_site_refuses_is_kept_in_words(site):
    with proxy(f"{site}/simple", {}) as (url, refusals):
        assert requests.get(f"{url}/absent/", timeout=9).status_code == 404
    assert refusals == ["absent: status 404"]


def test_an_unreachable_site_is_kept_in_words():
    with proxy("http://127.0.0.1:9/index", {}) as (url, refusals):
        assert requests.get(f"{url}/sat/", timeout=9).status_code == 502
    assert refusals == ["sat: ConnectionError"]


def test_sizes_are_what_the_server_says_and_nothing_else(site):
    assert file_sizes({"aa": f"{site}/simple/sat/", "bb": f"{site}/gone"}) == {"aa": len(PAGE)}

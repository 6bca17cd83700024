"""The loopback index in front of the site's: conda's packages answered, the rest passed on."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.fetch.index import IndexFile
from cogvideo_sat_env.lock.pip_index import Project, ProjectRelease
from cogvideo_sat_env.lock.pip_proxy import FrozenPages, SitePages, file_sizes, proxy

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
    with proxy(SitePages(f"{site}/simple"), {}) as served:
        text = requests.get(f"{served.url}/sat/", timeout=9).text
    assert f'<a href="{site}/files/sat-1.0.whl#sha256=aa" data-requires-python="&gt;=3.8">' in text
    assert "2.0" not in text
    assert served.refusals == []


def test_what_conda_provides_declares_no_dependencies(site):
    with proxy(SitePages(f"{site}/simple"), {"Typing_Extensions": "4.16.0"}) as served:
        url = served.url
        page = requests.get(f"{url}/typing-extensions/", timeout=9).text
        path, _, digest = page.partition('href="')[2].partition('"')[0].partition("#sha256=")
        data = requests.get(url.removesuffix("/simple") + path, timeout=9).content
    assert hashlib.sha256(data).hexdigest() == digest
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        metadata = archive.read("typing_extensions-4.16.0.dist-info/METADATA").decode()
    assert "Version: 4.16.0" in metadata and "Requires-Dist" not in metadata


def test_what_the_site_refuses_is_kept_in_words(site):
    with proxy(SitePages(f"{site}/simple"), {}) as served:
        assert requests.get(f"{served.url}/absent/", timeout=9).status_code == 404
    assert served.refusals == ["absent: status 404"]


def test_an_unreachable_site_is_kept_in_words():
    with proxy(SitePages("http://127.0.0.1:9/index"), {}) as served:
        assert requests.get(f"{served.url}/sat/", timeout=9).status_code == 502
    assert served.refusals == ["sat: ConnectionError"]


def test_sizes_are_what_the_server_says_and_nothing_else(site):
    assert file_sizes({"aa": f"{site}/simple/sat/", "bb": f"{site}/gone"}) == {"aa": len(PAGE)}


def frozen_file(name: str, sha256: str, uploaded: str = "") -> IndexFile:
    return IndexFile(name, Address(""), sha256, 7, ">=3.9", uploaded=uploaded)


def test_a_frozen_project_is_served_with_its_metadata_and_without_its_bytes():
    files = (frozen_file("sat-1.0-py3-none-any.whl", "aa"), frozen_file("sat-1!2.0+x.tar.gz", "bb"))
    projects = {"sat": Project(files, {"1.0": ProjectRelease(("numpy>=2",), ">=3.9")})}
    with proxy(FrozenPages(projects), {}) as served:
        page = requests.get(f"{served.url}/sat/", timeout=9).text
        links = [part.partition("#")[0] for part in page.split('href="')[1:]]
        base = served.url.removesuffix("/simple")
        answers = [requests.get(f"{base}{link}.metadata", timeout=9) for link in links]
        assert requests.get(base + links[0], timeout=9).status_code == 404
        assert requests.get(f"{served.url}/other/", timeout=9).status_code == 404
    assert 'data-core-metadata="true"' in page and "#sha256=aa" in page and 'data-requires-python="&gt;=3.9"' in page
    assert "Version: 1.0\nRequires-Python: >=3.9\nRequires-Dist: numpy>=2\n" in answers[0].text
    assert answers[1].status_code == 404
    assert served.refusals == [
        "sat: the requirements of 1!2.0+x are not in the frozen metadata", "other: not in the frozen metadata",
    ]  # fmt: skip
    assert served.sizes == {"aa": 7, "bb": 7}


def test_files_younger_than_asked_for_are_left_out_and_those_of_unknown_age_are_named():
    files = (
        frozen_file("sat-1.0.tar.gz", "aa", "2026-01-01T00:00:00"), frozen_file("sat-2.0.tar.gz", "bb"),
        frozen_file("sat-3.0.tar.gz", "cc", "2026-01-01T00:00:01"),
    )  # fmt: skip
    dated = (frozen_file("peft-1.0.tar.gz", "dd", "2025-01-01T00:00:00"),)
    pages = FrozenPages({"sat": Project(files, {}), "peft": Project(dated, {})})
    with proxy(pages, {}, until="2026-01-01T00:00:00") as served:
        page = requests.get(f"{served.url}/sat/", timeout=9).text
        requests.get(f"{served.url}/peft/", timeout=9)
    assert [name in page for name in ("sat-1.0", "sat-2.0", "sat-3.0")] == [True, True, False]
    assert served.undated == {"sat"}

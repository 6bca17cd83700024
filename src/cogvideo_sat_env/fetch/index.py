"""Files of the package index that the site has configured for pip, found by their SHA-256. Addresses stay in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.fetch.deadline import Deadline
from cogvideo_sat_env.fetch.session import Sessions
from cogvideo_sat_env.fetch.transfer import phrase, reason

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_SECONDS = 60
_TRIES = 3
_PAGE_SECONDS = 300
_LARGEST = 200_000_000  # bytes of one project's page
UNREAD = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)  # what asking for one may raise


@dataclass(frozen=True)
class IndexFile:
    """One file of a project; `sha256` is "" where the index doesn't say it, `uploaded` likewise (ISO 8601, UTC)."""

    file_name: str
    url: Address
    sha256: str
    size: int | None = None
    requires_python: str = ""
    is_yanked: bool = False
    uploaded: str = ""


class Index:
    """The simple indexes at `urls`, in their order (PEP 503 and PEP 691)."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls, self._sessions = [literal(url) for url in urls], Sessions()
        self._pages: dict[str, list[IndexFile]] = {}

    def files(self, project: str) -> list[IndexFile]:
        """Return what the indexes have of a project. Raises SourceError when none can be asked."""
        name = canonicalize_name(project)
        if name not in self._pages:
            found, refusals = [], []
            for url in self._urls:
                try:
                    found += self._page(url / f"{name}/")
                except NoPageError as error:
                    refusals.append(str(error))
            if not found:
                raise SourceError(
                    f"the package index has nothing of {project}: {'; '.join(refusals) or 'no index is configured'}",
                    "check the network and pip's configuration (`pip config list`, PIP_INDEX_URL, proxies)",
                )
            self._pages[name] = found
        return self._pages[name]

    def locate(self, pin: PipPin) -> tuple[Address, ...]:
        """Return the addresses of exactly this file. Raises SourceError when no index has it."""
        files = self.files(pin.name)
        urls = [f.url for f in files if f.sha256 == pin.sha256]
        urls += [f.url for f in files if not f.sha256 and f.file_name == pin.file_name]
        if not urls:
            same = [f for f in files if f.file_name == pin.file_name]
            what = "other bytes under that name" if same else f"{len(files)} other files"
            raise SourceError(
                f"{pin.file_name}: the package index has no file with SHA-256 {pin.sha256} (it has {what})",
                f"ask a complete index (PIP_INDEX_URL), or make the lock again: {satenv('lock')}",
            )
        return tuple(dict.fromkeys(urls))

    def _page(self, url: Address) -> list[IndexFile]:
        failure = ""
        for _ in range(_TRIES):
            try:
                answer = self._sessions.get(url, {"Accept": ACCEPT}, _SECONDS)
                with answer:
                    if answer.status_code == 200:
                        return parse_page(answer)
                    failure = f"it answers {phrase(answer)}"
                    if answer.status_code < 500 and answer.status_code != 429:
                        break
            except UNREAD as error:
                proxy = self._sessions.proxy(url)
                through = f" through the proxy {proxy[0]}, which {proxy[1]} names" if proxy else ""
                failure = f"it can't be reached{through} ({reason(error)})"
        raise NoPageError(failure)


class NoPageError(Exception):
    """One index doesn't have the project, or can't be asked."""


def parse_page(answer: requests.Response) -> list[IndexFile]:
    """Return the files on a project's page, HTML or JSON. Raises NoPageError for anything else."""
    with Deadline(answer.raw.shutdown, _PAGE_SECONDS) as deadline:
        body = answer.raw.read(_LARGEST + 1, decode_content=True)
    if deadline.expired or len(body) > _LARGEST:
        raise NoPageError("it answers with a page that doesn't end")
    try:
        if "json" in answer.headers.get("Content-Type", ""):
            return [_from_json(answer.url, file) for file in json.loads(body)["files"]]
        page = _Links(answer.url)
        page.feed(body.decode("utf-8", errors="replace"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError) as error:
        raise NoPageError("it answers with something that is no index page") from error
    return page.files


def _from_json(base: str, file: dict) -> IndexFile:
    sha256, size = (file.get("hashes") or {}).get("sha256", ""), file.get("size")
    if not isinstance(file["filename"], str) or not isinstance(sha256, str):
        raise ValueError("a file without a name")
    known = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    python, yanked = file.get("requires-python") or "", bool(file.get("yanked"))
    uploaded = str(file.get("upload-time") or "").partition(".")[0].rstrip("Z")
    url = literal(urljoin(base, file["url"]))
    return IndexFile(file["filename"], url, sha256, size if known else None, python, yanked, uploaded)


def literal(url: str) -> Address:
    """Return an address that no lock wrote: what looks like a variable in it is not one of ours to give away."""
    return Address(url.replace("$", "%24"))


class _Links(HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self.files: list[IndexFile] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "base" and found.get("href"):
            self._base = urljoin(self._base, found["href"])
        if tag == "a" and found.get("href"):
            url, _, fragment = urljoin(self._base, found["href"]).partition("#")
            sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
            name, python = unquote(urlsplit(url).path.rpartition("/")[2]), found.get("data-requires-python") or ""
            self.files.append(IndexFile(name, literal(url), sha256, None, python, "data-yanked" in found))

"""Small generated wheels and sdists, and a real loopback package index (PEP 503) that serves them."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

NATIVE = "cp{minor}-cp{minor}-manylinux2014_x86_64.manylinux_2_17_x86_64"

BACKEND = """
import os, zipfile, hashlib, base64
def _wheel(folder):
    name = "deepspeed-0.19.8-py3-none-any.whl"
    files = {"deepspeed/__init__.py": "built = %r\\n" % os.environ.get("SOURCE_DATE_EPOCH"),
             "deepspeed-0.19.8.dist-info/METADATA": "Metadata-Version: 2.1\\nName: deepspeed\\nVersion: 0.19.8\\n",
             "deepspeed-0.19.8.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    record = "".join(n + ",,\\n" for n in files) + "deepspeed-0.19.8.dist-info/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        for n, text in {**files, "deepspeed-0.19.8.dist-info/RECORD": record}.items():
            z.writestr(zipfile.ZipInfo(n, (2020, 1, 1, 0, 0, 0)), text)
    return name
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _wheel(wheel_directory)
"""


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: tuple[str, ...] = (),
    files: dict[str, bytes | str] | None = None,
    tag: str = "py3-none-any",
    executable: tuple[str, ...] = (),
    extra: str = "",
) -> Path:
    """Write a valid wheel with these files (default: one module) into `folder`; `extra` are more METADATA lines."""
    stem = re.sub(r"[-_.]+", "_", name)
    info = f"{stem}-{version}.dist-info"
    content: dict[str, bytes | str] = dict(files or {f"{stem.lower()}/__init__.py": f"version = {version!r}\n"})
    content[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: a test\n{extra}"
        + "".join(f"Requires-Dist: {item}\n" for item in requires)
    )
    pure = str("none-any" in tag).lower()
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    record = ""
    for path, data in content.items():
        raw = data.encode() if isinstance(data, str) else data
        record += (
            f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip('=')},{len(raw)}\n"
        )
    content[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    wheel = folder / f"{stem}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            member = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            member.external_attr = (0o100755 if path in executable else 0o100644) << 16
            archive.writestr(member, data)
    return wheel


def make_sdist(folder: Path) -> Path:
    """Write deepspeed as an sdist that is built by the project `minibackend`."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.19.8\n",
        "pyproject.toml": '[build-system]\nrequires = ["minibackend>=1"]\nbuild-backend = "minibackend"\n',
    }
    sdist = folder / "deepspeed-0.19.8.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"deepspeed-0.19.8/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return sdist


class Index:
    """A package index on the loopback interface. Files are looked up at each request: tests may change them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                body = outer.answer(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/index/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def answer(self, path: str) -> bytes | None:
        parts = unquote(path).strip("/").split("/")
        if len(parts) == 2 and parts[0] == "index":
            found = [f for f in sorted(self.folder.iterdir()) if self.project(f.name) == parts[1]]
            if not found:
                return None
            links = "".join(
                f'<a href="/files/{f.name}#sha256={hashlib.sha256(f.read_bytes()).hexdigest()}">{f.name}</a>'
                for f in found
            )
            return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        if len(parts) == 2 and parts[0] == "files" and (self.folder / parts[1]).is_file():
            return (self.folder / parts[1]).read_bytes()
        return None

    @staticmethod
    def project(file_name: str) -> str:
        stem = file_name.removesuffix(".tar.gz")
        return re.sub(r"[-_.]+", "-", stem.split("-")[0]).lower()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def use_index(monkeypatch: object, url: str) -> None:
    """Make `url` the only index that pip asks."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)
    monkeypatch.setenv("PIP_RETRIES", "0")

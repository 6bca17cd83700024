"""A loopback server that speaks as much of S3 as channels need: list, head, get, put (also in parts), delete.

Run as a program: it prints its address, then serves until it is ended. Objects lie in memory; the requests, without
their bodies, are written to the file that the first argument names. It knows one access key and refuses others.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCESS_KEY, SECRET_KEY = "loopback-key", "loopback-secret-never-shown"
STAMP = "2026-01-02T00:00:00.000Z"


class Handler(BaseHTTPRequestHandler):
    """One request; path-style addresses: /BUCKET/KEY."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, bytes]] = {}
    parts: ClassVar[dict[str, dict[int, bytes]]] = {}
    lock = threading.Lock()
    log = ""  # set below

    def log_message(self, *_: object) -> None:
        """Standard error is for faults."""

    def do_GET(self) -> None:
        """List a bucket, or send an object."""
        key, query = self._begin()
        if key is None:
            return
        if "/" not in key.strip("/"):
            self._list(key.strip("/"), query)
        elif key in self.objects:
            self._object(self.objects[key], with_body=True)
        else:
            self._send(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    def do_HEAD(self) -> None:
        """Describe an object."""
        key, _ = self._begin()
        if key is None:
            return
        if key in self.objects:
            self._object(self.objects[key], with_body=False)
        else:
            self._send(404, b"")

    def do_PUT(self) -> None:
        """Store an object or a part of one; a wrong checksum is refused."""
        key, query = self._begin()
        body = self._body()
        if key is None:
            return
        expected = self.headers.get("x-amz-checksum-sha256")
        if expected and expected != base64.b64encode(hashlib.sha256(body).digest()).decode():
            self._send(400, b"<Error><Code>BadDigest</Code><Message>checksum</Message></Error>")
            return
        if self.headers.get("if-none-match") == "*" and key in self.objects:
            self._send(412, b"<Error><Code>PreconditionFailed</Code><Message>it exists</Message></Error>")
            return
        with self.lock:
            if "partNumber" in query:
                self.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
            else:
                self.objects[key] = body
        self._send(200, b"", {"ETag": _etag(body)})

    def do_POST(self) -> None:
        """Begin or complete an upload in parts."""
        key, query = self._begin()
        self._body()
        if key is None:
            return
        if "uploads" in query:
            name = hashlib.md5(key.encode()).hexdigest()
            self.parts[name] = {}
            text = f"<UploadId>{name}</UploadId>"
            self._send(200, f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>".encode())
            return
        with self.lock:
            pieces = self.parts.pop(query["uploadId"][0])
            self.objects[key] = b"".join(pieces[number] for number in sorted(pieces))
        text = f"<ETag>{_etag(self.objects[key])}</ETag>"
        self._send(200, f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>".encode())

    def do_DELETE(self) -> None:
        """Remove an object."""
        key, _ = self._begin()
        if key is not None:
            self.objects.pop(key, None)
            self._send(204, b"")

    def _begin(self) -> tuple[str | None, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        entry = {"method": self.command, "path": unquote(parts.path), "query": parts.query}
        with self.lock, open(self.log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        query = parse_qs(parts.query, keep_blank_values=True)
        signed = self.headers.get("Authorization", "") + "".join(query.get("X-Amz-Credential", []))
        if ACCESS_KEY not in signed:
            self._send(403, b"<Error><Code>InvalidAccessKeyId</Code><Message>unknown access key</Message></Error>")
            return None, query
        return unquote(parts.path), query

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return body
        plain = b""
        while body:  # SIZE;chunk-signature=...\r\nDATA\r\n ... 0\r\n
            head, _, rest = body.partition(b"\r\n")
            size = int(head.partition(b";")[0] or b"0", 16)
            if size == 0:
                break
            plain, body = plain + rest[:size], rest[size + 2 :]
        return plain

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        contents, common = [], []
        for name in sorted(self.objects):
            key = name.removeprefix(f"/{bucket}/")
            if key == name or not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                common.append(prefix + head + delimiter)
                continue
            body = self.objects[name]
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{STAMP}</LastModified><ETag>{_etag(body)}</ETag>"
                f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        folders = [f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in dict.fromkeys(common)]
        text = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(contents)}"
            f"</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(contents + folders)}"
            "</ListBucketResult>"
        )
        self._send(200, text.encode())

    def _object(self, body: bytes, with_body: bool) -> None:
        self._send(200, body if with_body else b"", {"ETag": _etag(body)}, length=len(body))

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Content-Type", "application/xml" if body.startswith(b"<") else "application/octet-stream")
        self.send_header("Last-Modified", "Fri, 02 Jan 2026 00:00:00 GMT")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


if __name__ == "__main__":
    Handler.log = sys.argv[1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

"""Asks and fills a package server, in a process of its own; the request is on standard input (see engine.py).

Credentials are those of the tools: the rattler auth file (RATTLER_AUTH_FILE), or the server's own variable.
"""

from __future__ import annotations

import asyncio
import os
import tempfile

from cogvideo_sat_env.base.child import answer

SECONDS = 60  # for one request


def handle(request: dict) -> dict:
    """Answer {"do": "list"} or {"do": "upload"}."""
    if request["do"] == "list":
        return {"digests": asyncio.run(_digests(request))}
    _upload(request)
    return {}


async def _digests(request: dict) -> dict[str, str]:
    from rattler import Channel, Subdir
    from rattler.exceptions import GatewayError
    from rattler.networking import Client
    from rattler.repo_data import Gateway

    client = Client.default_client(max_retries=2, timeout=SECONDS)
    with tempfile.TemporaryDirectory(prefix="satenv-publish-") as fresh:  # a cached index could be an old one
        gateway = Gateway(cache_dir=fresh, client=client)
        subdirs = [Subdir(name) for name in request["subdirs"]]
        try:
            found = await gateway.query([Channel(request["channel"])], subdirs, request["names"], recursive=False)
        except GatewayError as error:
            if "could not find subdir 'noarch'" in str(error):
                return {}  # a channel that was made and never filled
            raise
    return {
        "/".join(record.url.split("/")[-2:]): record.sha256.hex()
        for records in found
        for record in records
        if record.sha256
    }


def _upload(request: dict) -> None:
    from rattler_build import upload

    key = os.environ.get(request["key_variable"]) or None  # None: the rattler auth file
    files, url, channel = [request["file"]], request["url"], request["channel"]
    if request["kind"] == "prefix":
        upload.upload_package_to_prefix(files, url, channel, api_key=key, force=request["force"])
    elif request["kind"] == "quetz":
        upload.upload_package_to_quetz(files, url, channel, api_key=key)
    elif request["kind"] == "artifactory":
        upload.upload_package_to_artifactory(files, url, channel, token=key)
    else:
        upload.upload_package_to_anaconda(
            files, channel, channel=[request["label"]], api_key=key, force=request["force"]
        )


if __name__ == "__main__":
    answer(handle)

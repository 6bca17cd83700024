"""What is asked and sent, in a process of its own: py-rattler holds the interpreter, and can abort it at its end.

Credentials are those of the tools: of a bucket AWS_* variables, ~/.aws and roles; of a server the rattler auth file
(RATTLER_AUTH_FILE), or the server's own variable.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import sys
import tempfile
from typing import Any

from cogvideo_sat_env.base.child import answer, ask
from cogvideo_sat_env.base.errors import SourceError

SECONDS = 60  # for one request to a server


def do(request: dict, doing: str, remedy: str) -> dict:
    """Have a child do `request`; return its answer.

    Raises SourceError that begins with `doing` and has the engine's reason, also when the process crashed.
    """
    found = ask("package.publish.uploader", request, "it")
    if "error" in found:
        raise SourceError(f"{doing}: {_masked(found['error'])}", remedy)
    return found


def _masked(text: str) -> str:
    """Take the values of secret variables out of an engine's words."""
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and len(value) > 3:
            text = text.replace(value, f"(value of {name})")
    return text


def _list(request: dict) -> dict:
    """Return the SHA-256 of a server's packages, by what its index says."""
    return {"digests": asyncio.run(_index_of(request))}


async def _index_of(request: dict) -> dict[str, str]:
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


def _upload(request: dict) -> dict:
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
    return {}


def _bucket(request: dict) -> tuple[Any, Any]:
    """Return botocore's session, and its client for a bucket."""
    sys.path.append(request["libraries"])
    import botocore.session

    session = botocore.session.get_session()
    return session, session.create_client("s3")


def _digests(request: dict) -> dict:
    """Return the SHA-256 of those of the objects that are in the bucket, by reading them."""
    client = _bucket(request)[1]
    wanted = {f"{request['prefix']}/{key}": key for key in request["keys"]}
    found = {}
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=request["bucket"], Prefix=request["prefix"] + "/")
    for page in pages:
        for item in page.get("Contents", []):
            if item["Key"] in wanted:
                digest = hashlib.sha256()
                body = client.get_object(Bucket=request["bucket"], Key=item["Key"])["Body"]
                for piece in body.iter_chunks(1024 * 1024):
                    digest.update(piece)
                found[wanted[item["Key"]]] = digest.hexdigest()
    return {"digests": found}


def _put(request: dict) -> dict:
    checksum = base64.b64encode(bytes.fromhex(request["sha256"])).decode("ascii")
    place = {"Bucket": request["bucket"], "Key": f"{request['prefix']}/{request['key']}"}
    with open(request["file"], "rb") as stream:
        _bucket(request)[1].put_object(**place, Body=stream, ChecksumSHA256=checksum)
    return {}


def _index(request: dict) -> dict:
    """Have rattler index a bucket."""
    from rattler.index import S3Credentials, index_s3

    session, client = _bucket(request)
    found = session.get_credentials()
    keys = found.get_frozen_credentials() if found else None
    own = session.get_config_variable("endpoint_url") or client.meta.endpoint_url
    credentials = S3Credentials(
        own,
        client.meta.region_name or "us-east-1",
        keys.access_key if keys else None,
        keys.secret_key if keys else None,
        keys.token if keys else None,
        # a store of one's own seldom has a host name for each bucket
        "virtual-host" if ".amazonaws.com" in own else "path",
    )
    url = f"s3://{request['bucket']}/{request['prefix']}"
    asyncio.run(index_s3(url, credentials, write_zst=True, write_shards=False, force=request["force"]))
    return {}


_DO = {"list": _list, "upload": _upload, "digests": _digests, "put": _put, "index": _index}

if __name__ == "__main__":
    answer(lambda request: _DO[request["do"]](request))

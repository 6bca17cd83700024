"""Asks and fills an S3 bucket, in a process of its own; the request is on standard input (see engine.py)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys

from cogvideo_sat_env.base.child import answer


def handle(request: dict) -> dict:
    """Answer {"do": "digests"}, {"do": "put"} or {"do": "index"}."""
    sys.path.append(request["libraries"])
    import botocore.session

    session = botocore.session.get_session()
    client = session.create_client("s3")
    if request["do"] == "digests":
        return {"digests": _digests(client, request)}
    if request["do"] == "put":
        _put(client, request)
    else:
        asyncio.run(_index(session, client, request))
    return {}


def _digests(client: object, request: dict) -> dict[str, str]:
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
    return found


def _put(client: object, request: dict) -> None:
    checksum = base64.b64encode(bytes.fromhex(request["sha256"])).decode("ascii")
    with open(request["file"], "rb") as stream:
        client.put_object(
            Bucket=request["bucket"],
            Key=f"{request['prefix']}/{request['key']}",
            Body=stream,
            ChecksumSHA256=checksum,
        )


async def _index(session: object, client: object, request: dict) -> None:
    from rattler.index import S3Credentials, index_s3

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
    await index_s3(url, credentials, write_zst=True, write_shards=False, force=request["force"])


if __name__ == "__main__":
    answer(handle)

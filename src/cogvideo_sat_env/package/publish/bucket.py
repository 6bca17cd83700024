"""A channel in an S3 bucket, or in any store that speaks S3: botocore sends the packages, rattler writes the index."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.tool_sets import tool_set
from cogvideo_sat_env.package.publish.built import BuiltPackage
from cogvideo_sat_env.package.publish.uploader import do

REMEDY = "check the AWS_* variables or ~/.aws (key, region, AWS_ENDPOINT_URL) and the rights on the bucket; run again"


class Bucket:
    """Credentials, region and endpoint are found as every AWS tool finds them (AWS_* variables, ~/.aws, roles)."""

    def __init__(self, url: str) -> None:
        """Take `s3://BUCKET/PREFIX`."""
        parts = urlsplit(url)
        if not parts.netloc or not parts.path.strip("/") or "@" in parts.netloc:
            raise InputError(f"{url}: expected s3://BUCKET/PREFIX", "name the bucket and the channel's place in it")
        self.name = f"s3://{parts.netloc}/{parts.path.strip('/')}"
        self._place = {"bucket": parts.netloc, "prefix": parts.path.strip("/")}

    def digests(self, packages: Sequence[BuiltPackage]) -> dict[str, str]:
        """Return the SHA-256 of the objects that are there, by reading them. Raises SourceError."""
        return self._do("digests", "reading", keys=[package.key for package in packages])["digests"]

    def upload(self, packages: Sequence[BuiltPackage], replaced: bool, progress: Progress) -> None:
        """Put the packages, each with its SHA-256 for the store to check, then index. Raises SourceError."""
        with progress.task(f"Uploading to {self.name}", sum(p.size for p in packages), "bytes") as task:
            for package in packages:
                task.note(package.key)
                self._do("put", "writing", key=package.key, file=str(package.path), sha256=package.sha256)
                task.advance(package.size)
        self._do("index", "indexing", force=replaced)

    def _do(self, what: str, doing: str, **more: object) -> dict:
        libraries = next((tool_set("s3", "botocore, which speaks S3") / "lib").glob("python3*/site-packages"))
        return do({"do": what, **self._place, "libraries": str(libraries), **more}, f"{doing} {self.name}", REMEDY)

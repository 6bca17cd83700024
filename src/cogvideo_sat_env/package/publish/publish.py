"""`satenv publish`: prove the channel, compare, and upload only with --yes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cogvideo_sat_env.base.address import local_path
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.package.publish.bucket import Bucket
from cogvideo_sat_env.package.publish.built import locked_names, read_built
from cogvideo_sat_env.package.publish.comparison import ChannelComparison, Target, compare, refuse_different
from cogvideo_sat_env.package.publish.folder import Folder
from cogvideo_sat_env.package.publish.server import Server


@dataclass(frozen=True)
class Published:
    """What was found and done. `uploaded`: False after a dry run, and where there was nothing to do."""

    plan: ChannelComparison
    dry_run: bool
    force: bool
    uploaded: bool

    @property
    def exit_code(self) -> int:
        """1 when the dry run found other bytes under a name that is taken."""
        return 1 if self.dry_run and self.plan.of("different") and not self.force else 0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome for scripts; the keys are stable."""
        return {
            **self.plan.to_json(), "dry_run": self.dry_run, "uploaded": self.uploaded, "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return the outcome for people."""
        count = len(self.plan.of("new", "different"))
        if self.exit_code:
            end = "DIFFERENT: a name that is taken gets no other bytes; raise the build number, or say --force"
        elif not count:
            end = "everything is there; nothing to do"
        elif self.dry_run:
            end = "dry run: nothing was uploaded; add --yes to do it"
        else:
            end = "uploaded, index last"
        return f"{self.plan.to_text()}{end}\n"


def publish(
    channel: Path, target: str, *, yes: bool, force: bool, server: str | None, root: Path, progress: Progress
) -> Published:
    """Publish the channel directory to `target`: a folder, file://, s3:// or http(s)://.

    Without `yes` it only says what it would do; without `force` no package is replaced by one of other bytes.
    `server` is the kind of server behind an http(s) address. Raises InputError, VerificationError, SourceError,
    MissingToolError; what was refused is refused before the first upload.
    """
    place = parse_target(target, channel, server)
    packages = read_built(channel, locked_names(root))
    plan = compare(place.name, packages, place.digests(packages))
    if not yes:
        return Published(plan, True, force, False)
    if not force:
        refuse_different(plan)
    pending = plan.of("new", "different")
    if pending:
        place.upload(pending, bool(plan.of("different")), progress)
    return Published(plan, False, force, bool(pending))


def parse_target(target: str, channel: Path, server: str | None) -> Target:
    """Return the place that `target` names. Raises InputError when it is none."""
    scheme = urlsplit(target).scheme if "://" in target else ""
    if scheme in ("http", "https"):
        return Server(target, server)
    if server is not None:
        raise InputError(f"--server {server}: {target} is no http(s) address", "leave --server out")
    if scheme == "s3":
        return Bucket(target)
    if scheme == "file":
        return Folder(local_path(target), channel)
    if scheme:
        raise InputError(f"{target}: expected a folder, file://, s3://, http:// or https://", None)
    return Folder(Path(target).absolute(), channel)

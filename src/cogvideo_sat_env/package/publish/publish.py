"""`satenv publish`: prove the channel, compare it with the target, and upload only with --yes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from cogvideo_sat_env.base.address import local_path
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.package.publish.bucket import Bucket
from cogvideo_sat_env.package.publish.built import BuiltPackage, locked_names, read_built
from cogvideo_sat_env.package.publish.folder import Folder
from cogvideo_sat_env.package.publish.server import Server

Target: TypeAlias = Folder | Bucket | Server  # `name` is what the user calls it


@dataclass(frozen=True)
class ComparedPackage:
    """One package; `there` is the SHA-256 of what the target has under its name, None for nothing."""

    package: BuiltPackage
    there: str | None

    @property
    def state(self) -> str:
        """Return "new", "same" or "different": there with other bytes."""
        return "new" if self.there is None else "same" if self.there == self.package.sha256 else "different"


@dataclass(frozen=True)
class Published:
    """All packages of the channel, compared with the target, and what was done.

    `uploaded`: False after a dry run, and where there was nothing to do.
    """

    target: str
    items: tuple[ComparedPackage, ...]
    dry_run: bool
    force: bool
    uploaded: bool = False

    def of(self, *states: str) -> tuple[BuiltPackage, ...]:
        """Return the packages in these states."""
        return tuple(item.package for item in self.items if item.state in states)

    @property
    def pending(self) -> tuple[BuiltPackage, ...]:
        """The packages that go up: new and different ones."""
        return self.of("new", "different")

    @property
    def bytes(self) -> int:
        """Bytes that would go up."""
        return sum(package.size for package in self.pending)

    @property
    def exit_code(self) -> int:
        """1 when the dry run found other bytes under a name that is taken."""
        return 1 if self.dry_run and self.of("different") and not self.force else 0

    def to_json(self) -> dict[str, Any]:
        """Return the outcome for scripts; the keys are stable."""
        return {
            "target": self.target,
            "packages": [
                {"file": p.key, "size": p.size, "sha256": p.sha256, "state": item.state, "sha256_there": item.there}
                for item in self.items
                for p in [item.package]
            ],
            "bytes": self.bytes, "dry_run": self.dry_run, "uploaded": self.uploaded, "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return the outcome for people: one line a package, then what was done."""
        width = max(len(item.package.key) for item in self.items)
        lines = [f"to {self.target}"]
        for item in self.items:
            state = item.state.upper() if item.state == "different" else item.state
            size = f"{item.package.size:,} bytes"
            lines.append(f"  {state:<9}  {item.package.key:<{width}}  {size:>17}  sha256:{item.package.sha256}")
            if item.state == "different":
                lines.append(f"  {'':<9}  {'there now':>{width}}  {'':>17}  sha256:{item.there}")
        lines.append(f"{len(self.pending)} of {len(self.items)} to upload, {human_bytes(self.bytes)}")
        if self.exit_code:
            lines.append("DIFFERENT: a name that is taken gets no other bytes; raise the build number, or say --force")
        elif not self.pending:
            lines.append("everything is there; nothing to do")
        else:
            lines.append(
                "dry run: nothing was uploaded; add --yes to do it" if self.dry_run else "uploaded, index last"
            )
        return "\n".join(lines) + "\n"


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
    there = place.digests(packages)
    items = tuple(ComparedPackage(package, there.get(package.key)) for package in packages)
    found = Published(place.name, items, dry_run=not yes, force=force)
    if found.dry_run:
        return found
    different = found.of("different")
    if different and not force:
        raise VerificationError(
            f"{place.name}: has {', '.join(package.key for package in different)} with other bytes; whoever locked "
            "them would be refused by the hash",
            "raise the build number in recipe/ and build again, or overwrite with --force",
        )
    if found.pending:
        place.upload(found.pending, bool(different), progress)
    return replace(found, uploaded=bool(found.pending))


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

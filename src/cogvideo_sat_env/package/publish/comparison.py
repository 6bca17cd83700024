"""What an upload would do: each package new at the target, the same there, or there with other bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.package.publish.built import BuiltPackage


class Target(Protocol):
    """A place that channels are published to; `name` is what the user calls it."""

    name: str

    def digests(self, packages: Sequence[BuiltPackage]) -> dict[str, str]:
        """Return the SHA-256 by `<subdir>/<file>` of those of the packages that are there."""

    def upload(self, packages: Sequence[BuiltPackage], replaced: bool, progress: Progress) -> None:
        """Upload the packages in this order, then the index; `replaced`: some are there with other bytes."""


@dataclass(frozen=True)
class ComparedPackage:
    """One package and its state at the target: "new", "same" or "different"; `there` is the SHA-256 found."""

    package: BuiltPackage
    state: str
    there: str | None = None


@dataclass(frozen=True)
class ChannelComparison:
    """All packages of the channel, compared with the target."""

    target: str
    items: tuple[ComparedPackage, ...]

    def of(self, *states: str) -> tuple[BuiltPackage, ...]:
        """Return the packages in these states."""
        return tuple(item.package for item in self.items if item.state in states)

    @property
    def bytes(self) -> int:
        """Bytes that would go up: of new and of different packages."""
        return sum(package.size for package in self.of("new", "different"))

    def to_json(self) -> dict[str, Any]:
        """Return the plan for scripts."""
        return {
            "target": self.target,
            "packages": [
                {"file": p.key, "size": p.size, "sha256": p.sha256, "state": item.state, "sha256_there": item.there}
                for item in self.items
                for p in [item.package]
            ],
            "bytes": self.bytes,
        }

    def to_text(self) -> str:
        """Return the plan for people: one line a package."""
        width = max(len(item.package.key) for item in self.items)
        lines = [f"to {self.target}"]
        for item in self.items:
            state = item.state.upper() if item.state == "different" else item.state
            size = f"{item.package.size:,} bytes"
            lines.append(f"  {state:<9}  {item.package.key:<{width}}  {size:>17}  sha256:{item.package.sha256}")
            if item.state == "different":
                lines.append(f"  {'':<9}  {'there now':>{width}}  {'':>17}  sha256:{item.there}")
        lines.append(f"{len(self.of('new', 'different'))} of {len(self.items)} to upload, {human_bytes(self.bytes)}")
        return "\n".join(lines) + "\n"


def compare(target: str, packages: Sequence[BuiltPackage], there: Mapping[str, str]) -> ChannelComparison:
    """Compare the packages with the SHA-256 of what is there, by `<subdir>/<file>`."""
    items = []
    for package in packages:
        found = there.get(package.key)
        state = "new" if found is None else "same" if found == package.sha256 else "different"
        items.append(ComparedPackage(package, state, found))
    return ChannelComparison(target, tuple(items))


def refuse_different(plan: ChannelComparison) -> None:
    """Raise VerificationError when a package is there with other bytes."""
    different = [item for item in plan.items if item.state == "different"]
    if different:
        names = ", ".join(item.package.key for item in different)
        raise VerificationError(
            f"{plan.target}: has {names} with other bytes; whoever locked them would be refused by the hash",
            "raise the build number in recipe/ and build again, or overwrite with --force",
        )

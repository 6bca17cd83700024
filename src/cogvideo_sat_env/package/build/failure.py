"""A build log's last words as one clear error."""

from __future__ import annotations

import re
from pathlib import Path

from cogvideo_sat_env.base.errors import MissingToolError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.package.build.outputs import Output

_NOISE = re.compile(
    r"^\s*(?:\+ |[│╭╞╰]|$|To run |Script (?:execution )?failed|Work directory:|.*[Pp]refix: |cd \"|WARNING)"
)


def explain(output: Output, reason: str, log: Path, wheelhouse: Path | None, platform: str) -> SatenvError:
    """Return the error for a build of `output` for `platform` that the engine refused, from what its log says.

    `reason` is what the engine itself says, `wheelhouse` the folder that took the place of the package index.
    """
    said = log.read_text(encoding="utf-8") if log.is_file() else ""
    what = f"{output.name} {output.version}"
    where = str(wheelhouse) if wheelhouse else "the configured package index"
    wrong = re.search(r"Expected sha256 (?P<expected>\w{64})\s+Got\s+(?P<found>\w{64})", said)
    if wrong:
        return VerificationError(
            f"{what}: expected sha256 {wrong['expected']}, found {wrong['found']}; from {where}",
            "that file isn't the one that recipe/recipe.yaml names: ask the index's owner, or fetch it again",
        )
    missing = re.search(r"No matching distribution found for (\S+)", said)
    if missing and wheelhouse:
        return SourceError(
            f"{what}: {where} has no file for {missing[1]}",
            f"fill it{_where(platform)} with: "
            f"python3.11 -m pip download --no-deps --require-hashes -r locks/pip-{platform}.txt -d '{wheelhouse}'",
        )
    if missing:
        return SourceError(
            f"{what}: {where} has no file for {missing[1]}, or can't be reached",
            f"check pip's index-url; the log: {log}",
        )
    if "No module named pip" in said:
        return MissingToolError(f"{what}: the build's Python has no pip", "take a channel that has the package pip")
    last = "\n".join(f"  {line}" for line in log_lines(log)[-8:])
    return SatenvError(f"{what}: {reason}\n{last}", f"the whole log: {log}")


def _where(platform: str) -> str:
    """Say where pip finds the wheels of `platform`: it takes those of the machine that it runs on."""
    return "" if platform == current_platform() else f", on a machine that is {platform},"


def log_lines(log: Path) -> list[str]:
    """Return the lines of an engine's log without its hints on how to run scripts by hand, and without tables."""
    said = log.read_text(encoding="utf-8") if log.is_file() else ""
    return [line for line in said.splitlines() if not _NOISE.match(line)]

"""A build log's last words as one clear error."""

from __future__ import annotations

import re
from pathlib import Path

from cogvideo_sat_env.base.errors import MissingToolError, SatenvError, SourceError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.fetch.pip_errors import INDEX, pip_error
from cogvideo_sat_env.package.build.outputs import Output

_NOISE = re.compile(
    r"^\s*(?:\+ |[│╭╞╰]|$|To run |Script (?:execution )?failed|Work directory:|.*[Pp]refix: |cd \"|WARNING)"
)


def explain(output: Output, reason: str, log: Path, wheelhouse: Path | None, platform: str) -> SatenvError:
    """Return the error for a build of `output` for `platform` that the engine refused, from what its log says.

    `reason` is what the engine itself says, `wheelhouse` the folder that took the place of the package index.
    """
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    what = f"{output.name} {output.version}"
    where = str(wheelhouse) if wheelhouse else INDEX
    error = pip_error(
        text, what, where=where,
        wrong="that file isn't the one that recipe/recipe.yaml names: ask the index's owner, or fetch it again",
    )  # fmt: skip
    if isinstance(error, SourceError):
        error.remedy = f"check pip's index-url; the log: {log}"
        if wheelhouse:
            # pip takes the wheels of the machine that it runs on
            there = "" if platform == current_platform() else f", on a machine that is {platform},"
            error.remedy = (
                f"fill it{there} with: "
                f"python3.11 -m pip download --no-deps --require-hashes -r locks/pip-{platform}.txt -d '{wheelhouse}'"
            )
    if isinstance(error, MissingToolError):
        error.remedy = "take a channel that has the package pip"
    if error and type(error) is not SatenvError:  # of a build that failed the engine's log says more
        return error
    last = "\n".join(f"  {line}" for line in log_lines(log)[-8:])
    return SatenvError(f"{what}: {reason}\n{last}", f"the whole log: {log}")


def log_lines(log: Path) -> list[str]:
    """Return the lines of an engine's log without its hints on how to run scripts by hand, and without tables."""
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return [line for line in text.splitlines() if not _NOISE.match(line)]

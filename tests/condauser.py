"""What a conda user does, done with rattler: install into a prefix that is there, remove from it. A program of its own.

usage: condauser.py, with a request in JSON on standard input: {"do", "prefix", "channels", "specs", "virtual", "cache"}.
It prints {"linked", "unlinked"} or {"error"}: py-rattler can abort an interpreter that is ending.

install   solve the specs with everything that is installed, which stays where it can
link      just the packages that the specs (name version build) name, without what they need
remove    the packages that the specs name
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rattler import Channel, GenericVirtualPackage, PackageName, PrefixRecord, Subdir, Version, install, solve
from rattler.channel import ChannelPriority
from rattler.package import BuildString
from rattler.repo_data import Gateway

from cogvideo_sat_env.base.paths import current_platform


def ask(
    prefix: Path, channels: Sequence[str], specs: Sequence[str], virtual: Mapping[str, str], *, cache: Path,
    do: str = "install",
) -> dict:  # fmt: skip
    """Run this program; return what it printed."""
    request = {
        "do": do, "prefix": str(prefix), "channels": list(channels), "specs": list(specs), "virtual": dict(virtual),
        "cache": str(cache),
    }  # fmt: skip
    folders = [str(Path(__file__).resolve().parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    child = subprocess.run(
        [sys.executable, __file__], input=json.dumps(request), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
    )  # fmt: skip
    assert child.stdout, child.stderr
    return json.loads(child.stdout)


async def _install(request: dict) -> dict:
    prefix = Path(request["prefix"])
    installed = [PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    platform = current_platform()
    virtual = [
        GenericVirtualPackage(PackageName(name), Version(value.split()[0]), BuildString([*value.split(), "0"][1]))
        for name, value in request["virtual"].items()  # "version" or "version build"
    ]
    # what is installed stays where it can, but for what is asked for by name: conda's --update-specs
    asked = {spec.split()[0] for spec in request["specs"]}
    records = await solve(
        [Channel(url) for url in request["channels"]],
        [*request["specs"], *(record.name.normalized for record in installed)],
        gateway=Gateway(cache_dir=Path(request["cache"]) / "repodata"),
        platforms=[Subdir(platform), Subdir("noarch")],
        virtual_packages=virtual,
        locked_packages=[record for record in installed if record.name.normalized not in asked],
        channel_priority=ChannelPriority.Strict,
    )
    before = {(r.name.normalized, str(r.version), str(r.build)) for r in installed}
    after = {(r.name.normalized, str(r.version), str(r.build)) for r in records}
    await install(
        records, prefix, cache_dir=Path(request["cache"]) / "pkgs", installed_packages=installed, show_progress=False
    )
    return {"linked": sorted(after - before), "unlinked": sorted(before - after)}


async def _link(request: dict) -> dict:
    platforms = [Subdir(current_platform()), Subdir("noarch")]
    gateway = Gateway(cache_dir=Path(request["cache"]) / "repodata")
    channels = [Channel(url) for url in request["channels"]]
    found = await gateway.query(channels, platforms, request["specs"], recursive=False)
    records = [record for group in found for record in group]
    await install(
        records,
        request["prefix"],
        cache_dir=Path(request["cache"]) / "pkgs",
        installed_packages=[],
        show_progress=False,
    )
    return {"linked": sorted((r.name.normalized, str(r.version), str(r.build)) for r in records), "unlinked": []}


async def _remove(request: dict) -> dict:
    prefix = Path(request["prefix"])
    installed = [PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    kept = [record for record in installed if record.name.normalized not in request["specs"]]
    gone = [record for record in installed if record.name.normalized in request["specs"]]
    await install(
        kept, prefix, cache_dir=Path(request["cache"]) / "pkgs", installed_packages=installed, show_progress=False
    )
    return {"linked": [], "unlinked": sorted((r.name.normalized, str(r.version), str(r.build)) for r in gone)}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    try:
        found = asyncio.run({"install": _install, "link": _link, "remove": _remove}[request["do"]](request))
    except Exception as error:  # the reason that a user would see
        found = {"error": str(error)}
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

"""Small inventories, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

from cogvideo_sat_env.report.inventory import Inventory, Package, inventory
from cogvideo_sat_env.report.project import inventories

CHANNEL = "https://conda.anaconda.org/conda-forge"


def package(name: str, version: str = "1.0", needs: Sequence[str] = (), **more: object) -> Package:
    """Return a conda package, or with kind="pip" one of pip's."""
    kind = str(more.pop("kind", "conda"))
    build = str(more.pop("build", "0" if kind == "conda" else ""))
    facts = {
        "size": 1000, "licence": "MIT", "timestamp": 1_760_000_000,
        "sha256": hashlib.sha256(f"{name} {version} {build} {kind}".encode()).hexdigest(), **more,
    }  # fmt: skip
    channel, subdir = (CHANNEL, "linux-64") if kind == "conda" else ("", "")
    file = f"{name}-{version}-{build}.conda" if kind == "conda" else f"{name}-{version}-py3-none-any.whl"
    url = f"{channel}/{subdir}/{file}" if kind == "conda" else ""
    return Package(name, version, build, kind, channel, subdir, file, url, depends=tuple(needs), **facts)  # type: ignore[arg-type]


def of(*packages: Package, variant: str | None = None, platform: str = "linux-64", kind: str = "lock",
       source: str = "some.yml") -> Inventory:  # fmt: skip
    """Return an inventory of these packages."""
    return inventory(source, kind, platform, packages, variant)


@cache
def project() -> tuple[Inventory, ...]:
    """Return the project's own, which take a second to read."""
    return inventories()


def variant(name: str) -> Inventory:
    """Return that of one variant of the project."""
    return next(one for one in project() if one.variant == name)

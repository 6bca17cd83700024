"""What is in it: one view of the packages of a lock, a receipt, a prefix or a bundle.

report/sources.py reads them, bundle/read_inventory.py whatever a user names:

    read("conda-lock.yml", ["linux-64"])     -> one Inventory for each platform that is asked for (none asked: all)
    read("HEAD~1:conda-lock.yml"), read(prefix), read(prefix / "etc/cogvideo-sat-env/receipt.json"), …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.lock.read import Lock
from cogvideo_sat_env.report.facts import Facts


@dataclass(frozen=True)
class Package:
    """One package. Sizes are in bytes and `timestamp` in seconds since 1970 (UTC); None is unknown, never zero."""

    name: str
    version: str
    build: str  # "" for pip
    kind: str  # "conda" or "pip"
    channel: str  # base URL without secrets; "" for pip
    subdir: str  # "" for pip
    file_name: str  # "" where it isn't known (pip in a prefix that has no receipt)
    url: str  # without secrets; "" for pip
    sha256: str = ""  # of the archive; "" where it isn't known
    md5: str = ""
    size: int | None = None  # of the archive
    installed_size: int | None = None  # of its files in a prefix
    licence: str | None = None  # in the words of the metadata
    depends: tuple[str, ...] = ()  # match specs, names as the source has them; of pip: distributions' names
    timestamp: int | None = None

    @property
    def key(self) -> str:
        """The name by which packages are compared, whatever spelling and installer."""
        return str(canonicalize_name(self.name))


@dataclass(frozen=True)
class Inventory:
    """The packages for one platform, sorted by name. `variant` is a project variant's id, None for another lock."""

    source: str  # as the user named it
    kind: str  # "lock", "explicit", "wheels", "receipt", "prefix", "bundle"
    platform: str
    variant: str | None
    packages: tuple[Package, ...]
    sha256: str = ""  # of the lock; of the lock that it was made from, for a receipt, a prefix and a bundle

    @property
    def label(self) -> str:
        """Variant or platform, for headings."""
        return self.variant or self.platform

    def find(self, name: str) -> Package | None:
        """Return the package of this name (conda or PyPI spelling), conda's where both installers have one."""
        key = canonicalize_name(name)
        return next((package for package in self.packages if package.key == key), None)


def inventory(
    source: str, kind: str, platform: str, packages: Iterable[Package], variant: str | None = None, sha256: str = ""
) -> Inventory:  # fmt: skip
    """Return an inventory with its packages in order."""
    return Inventory(
        source, kind, platform, variant, tuple(sorted(packages, key=lambda p: (p.key, p.kind, p.name))), sha256
    )


def only(found: tuple[Inventory, ...], platforms: Sequence[str]) -> tuple[Inventory, ...]:
    """Return those of `platforms` (none: all). Raises InputError for one that isn't there."""
    for platform in platforms:
        if platform not in {one.platform for one in found}:
            raise InputError(
                f"{found[0].source}: has nothing for {platform}; it has {', '.join(i.platform for i in found)}",
                "name one of those with --platform",
            )
    return tuple(one for one in found if not platforms or one.platform in platforms)


def of_variant(found: tuple[Inventory, ...], variant: str | None) -> tuple[Inventory, ...]:
    """Return those of one variant (None: all); what has no variant stays. Raises InputError when none is left."""
    kept = tuple(one for one in found if variant is None or one.variant in (variant, None))
    if not kept:
        raise InputError(
            f"{found[0].source}: has no variant {variant!r}; it has {', '.join(str(one.variant) for one in found)}",
            "name one of those with --variant",
        )
    return kept


def of_lock(lock: Lock, facts: Facts, source: str, variant: str | None = None, sha256: str = "") -> Inventory:
    """Return the inventory of a lock; what it doesn't say of a package comes from `facts`."""
    packages = [of_artefact(artefact, facts) for artefact in lock.conda] + [of_pip(pin, facts) for pin in lock.pip]
    return inventory(source, "lock", lock.platform, packages, variant, sha256)


def of_artefact(artefact: CondaArtefact, facts: Facts) -> Package:
    """Return the package of an artefact; `facts` say what it doesn't."""
    fact = facts.of(artefact.sha256)
    return Package(
        artefact.name, artefact.version, artefact.build, "conda", str(artefact.channel), artefact.subdir,
        artefact.file_name, str(artefact.url), artefact.sha256, artefact.md5,
        size=artefact.size or facts.size(artefact.sha256), licence=fact.licence,
        depends=artefact.depends or fact.depends, timestamp=fact.timestamp,
    )  # fmt: skip


def of_pip(pin: PipPin, facts: Facts) -> Package:
    """Return the package of a pip pin; `facts` say what it doesn't."""
    return Package(
        pin.name, pin.version, "", "pip", "", "", pin.file_name, "", pin.sha256,
        size=pin.size or facts.size(pin.sha256), depends=pin.depends, timestamp=facts.of(pin.sha256).timestamp,
    )  # fmt: skip


def main_subdir(packages: Iterable[Package]) -> str:
    """Return the platform that most of the packages are for; "noarch" when none is for one alone."""
    subdirs = Counter(package.subdir for package in packages if package.subdir not in ("", "noarch"))
    return subdirs.most_common(1)[0][0] if subdirs else "noarch"

"""What is in it: one view of the packages of a lock, a git revision of one, a receipt or a prefix.

Bundles join in bundle/inventory.py, whose `read` is what commands call. The API for other modules:

    read("conda-lock.yml", ["linux-64"])     -> one Inventory for each platform that is asked for (none asked: all)
    read("HEAD~1:conda-lock.yml"), read(prefix), read(prefix / "etc/cogvideo-sat-env/receipt.json"), …
    of_lock(lock, facts, …), of_prefix(prefix)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin, split_archive
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.install import receipt as receipts
from cogvideo_sat_env.install.added import distributions
from cogvideo_sat_env.lock.read import Lock, load_lock, lock_platforms, read_lock
from cogvideo_sat_env.report import facts as known
from cogvideo_sat_env.report.facts import Facts
from cogvideo_sat_env.report.formats import foreign
from cogvideo_sat_env.report.revision import read_revision
from cogvideo_sat_env.source.wheels.lockfile import read_wheel_lock
from cogvideo_sat_env.source.wheels.metadata import license_text, requirements
from cogvideo_sat_env.spec.variants import read_variants

EXPECTED = (
    "a conda-lock file, an explicit lockfile, a wheel lock, a receipt, a bundle, the folder of an environment, or "
    "REVISION:PATH"
)


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


def read(what: str | Path, platforms: Sequence[str] = ()) -> tuple[Inventory, ...]:
    """Return an inventory for each platform of `what` that is in `platforms` (none: all).

    `what` is a path, or REVISION:PATH where there is no such file. Raises InputError, naming the format that was found,
    for anything else, for a platform that isn't there; MissingToolError for a revision without git.
    """
    path = Path(what)
    if path.is_dir():
        found: tuple[Inventory, ...] = (of_prefix(path),)
    elif path.exists() and not path.is_file():  # a pipe, `diff <(git show …) …`: it can be read only once
        found = _read_content(_bytes(path, str(what)), str(what), "piped", project_facts())
    elif path.exists():
        found = _read_file(path, str(what))
    elif ":" in str(what) and "://" not in str(what):
        found = _read_revision(str(what))
    else:
        raise InputError(f"{what}: no such file; expected {EXPECTED}", "check the path, or run from the project")
    return only(found, platforms)


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


def project_facts() -> Facts:
    """Return the facts that the project carries; none outside of one."""
    try:
        return known.of_project(project_root())
    except InputError:
        return known.NONE


def _bytes(path: Path, source: str) -> bytes:
    """Return the file's bytes, not many more than a lock may have."""
    try:
        with open(path, "rb") as stream:
            return stream.read(yamlfile.MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; expected {EXPECTED}", "check its permissions") from error


def _read_file(path: Path, source: str, revision: tuple[str, Facts] | None = None) -> tuple[Inventory, ...]:
    """Read the file at `path`, called `source`; of a git revision, `revision` has its path there and its facts."""
    content = _bytes(path, source)
    head = content[:65536]
    facts = revision[1] if revision else project_facts()
    digest = hashlib.sha256(content).hexdigest()
    if re.search(rb"^@EXPLICIT\s*$", head, re.MULTILINE):
        found = _explicit(content, source, facts, digest)
        return (replace(found, variant=_variants(path, revision[0] if revision else None).get(found.platform)),)
    if re.search(rb"^# spec-sha256: ", head, re.MULTILINE):
        wheels = read_wheel_lock(path)
        pins = [of_pip(pin, facts) for pin in wheels.pins]
        return (inventory(source, "wheels", wheels.platform, pins, sha256=digest),)
    if head.lstrip().startswith(b"{") and b'"fingerprint"' in head:
        return (_receipt(content, source, facts),)
    name = foreign(content)
    if name:
        raise InputError(f"{source}: is {name}; expected {EXPECTED}", "name the lock, or the environment made from it")
    document = load_lock(path)
    there = lock_platforms(path, document)
    variants = _variants(path, revision[0] if revision else None)
    return tuple(
        of_lock(read_lock(path, platform, facts.sizes, document), facts, source, variants.get(platform), digest)
        for platform in there
    )  # fmt: skip


def _read_revision(what: str) -> tuple[Inventory, ...]:
    found = read_revision(what)
    facts = known.of_revision(found.repository, found.commit, project_facts())
    return _read_content(found.content, what, found.path, facts)


def _read_content(content: bytes, source: str, inside: str, facts: Facts) -> tuple[Inventory, ...]:
    """Read what stands in no file of its own; `inside` is its path in a repository."""
    with scratch_folder("satenv-report-") as folder:
        path = Path(folder) / Path(inside).name
        path.write_bytes(content)
        try:
            return _read_file(path, source, (inside, facts))
        except InputError as error:  # that folder means nothing to anybody
            remedy = error.remedy and error.remedy.replace(str(path), source)
            raise InputError(error.message.replace(str(path), source), remedy) from error


def _variants(path: Path, inside: str | None) -> dict[str, str]:
    """Return the project's variants by platform whose lock, or what is rendered from it, the file is.

    `inside` is its path in a repository.
    """
    if inside is None:
        try:
            inside = path.resolve().relative_to(project_root().resolve()).as_posix()
        except (InputError, ValueError):
            return {}
    return {
        variant.platform: variant.id for variant in read_variants() if inside in (variant.lock, variant.explicit_lock)
    }


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


def _explicit(content: bytes, source: str, facts: Facts, digest: str) -> Inventory:
    packages, platform = [], ""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if text.startswith("# platform:"):
            platform = text.partition(":")[2].strip()
        if not text or text.startswith(("#", "@")):
            continue
        address, _, fragment = text.partition("#")
        url = Address(address)
        channel, subdir, file_name = url.package()
        try:
            name, version, build = split_archive(file_name)
        except ValueError as error:
            raise InputError(f"{source}:{number}: {url[:80]!r}; expected the URL of a conda package", None) from error
        digits = fragment.removeprefix("sha256:").lower()
        sha256, md5 = (digits, "") if len(digits) == 64 else ("", digits)
        packages.append(of_artefact(
            CondaArtefact(name, version, build, subdir, channel, file_name, url, sha256, md5), facts
        ))  # fmt: skip
    if not packages:
        raise InputError(f"{source}: an explicit lockfile without packages", "make it again")
    return inventory(source, "explicit", platform or _platform(packages), packages, sha256=digest)


def _platform(packages: Iterable[Package]) -> str:
    subdirs = Counter(package.subdir for package in packages if package.subdir not in ("", "noarch"))
    return subdirs.most_common(1)[0][0] if subdirs else "noarch"


def _receipt(content: bytes, source: str, facts: Facts) -> Inventory:
    try:
        data = json.loads(content)
        packages = []
        for entry in data["packages"]:
            _require_texts(entry, "name", "version", "build", "sha256", "url")
            url = Address(entry["url"])
            channel, subdir, file_name = url.package()
            artefact = CondaArtefact(
                entry["name"], entry["version"], entry["build"], subdir, channel, file_name, url, entry["sha256"]
            )
            packages.append(of_artefact(artefact, facts))
        packages += [of_pip(pin, facts) for pin in _pins(data["pip"])]
        return inventory(
            source, "receipt", str(data["platform"]), packages, _variant(data), str(data.get("lock_sha256") or "")
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{source}: no receipt that this program understands ({type(error).__name__}: {error})",
            "name the environment's folder: what is in it can be read without its receipt",
        ) from error


def of_prefix(prefix: Path) -> Inventory:
    """Return what is in the environment at `prefix`, whoever made it: conda's records, and what pip put there.

    Raises InputError for a folder that is no environment, and for a record that can't be read.
    """
    if not (prefix / "conda-meta").is_dir():
        raise InputError(
            f"{prefix}: no conda-meta there; a folder has to be an environment",
            "name the environment's folder, or a file: a lock, a receipt, a bundle",
        )
    receipt = receipts.read(prefix) or {"pip": []}
    packages, owned = [], set()
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            data = json.loads(path.read_bytes())
            packages.append(_record(data))
            owned |= {name for name in data.get("files") or () if name.endswith(".dist-info/METADATA")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: not a record of conda's ({type(error).__name__}: {error})", None) from error
    facts = project_facts()
    try:
        pins = {str(canonicalize_name(pin.name)): pin for pin in _pins(receipt["pip"])}
    except (KeyError, TypeError):
        pins = {}  # a damaged receipt; what is there can be seen without it
    for site in sorted((prefix / "lib").glob("python3.*/site-packages")):
        inside = site.relative_to(prefix).as_posix()
        for found in distributions(prefix, inside):
            if f"{found.info}/METADATA" not in owned:
                packages.append(_distribution(prefix, found, pins, facts))
    return inventory(
        str(prefix), "prefix", str(receipt.get("platform") or _platform(packages)), packages,
        _variant(receipt), str(receipt.get("lock_sha256") or ""),
    )  # fmt: skip


def _variant(receipt: dict[str, Any]) -> str | None:
    found = receipt.get("variant")
    return found if isinstance(found, str) and found else None


def _pins(entries: Iterable[dict[str, Any]]) -> list[PipPin]:
    """Return a receipt's pip part. Raises KeyError, TypeError when it is malformed."""
    found = []
    for entry in entries:
        _require_texts(entry, "name", "version", "sha256", "file_name")
        found.append(PipPin(entry["name"], entry["version"], entry["sha256"], entry["file_name"]))
    return found


def _require_texts(entry: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if not isinstance(entry[key], str):
            raise TypeError(f"{key} is {entry[key]!r}, not a text")


def _record(data: dict[str, Any]) -> Package:
    _require_texts(data, "name", "version", "build")
    url = Address(str(data.get("url") or ""))
    fact = known.fact(data)
    paths = (data.get("paths_data") or {}).get("paths") or []
    channel = str(url.package()[0]) if url else str(data.get("channel") or "")
    return Package(
        data["name"], data["version"], data["build"], "conda", channel, str(data.get("subdir") or ""),
        str(data.get("fn") or ""), str(url), str(data.get("sha256") or ""), str(data.get("md5") or ""), fact.size,
        sum(int(entry.get("size_in_bytes") or 0) for entry in paths) or None,
        fact.licence, fact.depends, fact.timestamp,
    )  # fmt: skip


def _distribution(prefix: Path, found: Any, pins: dict[str, PipPin], facts: Facts) -> Package:
    """Return what pip put into a prefix. Its archive is known from the receipt, if that is the file of this version."""
    message = HeaderParser().parsestr((prefix / found.info / "METADATA").read_text("utf-8", "replace"))
    python = found.info.split("/")[1].removeprefix("python")
    markers = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    sizes = [path.stat().st_size for name in set(found.files) if (path := prefix / name).is_file()]
    package = Package(
        found.name, found.version, "", "pip", "", "", "", "", installed_size=sum(sizes) or None,
        licence=license_text(message) or None,
        depends=tuple(requirements(message.get_all("Requires-Dist") or (), markers)),
    )  # fmt: skip
    pin = pins.get(found.name)
    if pin and pin.version == found.version:
        package = replace(
            package, file_name=pin.file_name, sha256=pin.sha256, size=facts.size(pin.sha256), name=pin.name,
            timestamp=facts.of(pin.sha256).timestamp,
        )  # fmt: skip
    return package

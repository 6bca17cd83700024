"""What is in an environment: by its receipt, or by conda's records and what pip put beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.utils import canonicalize_name

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.install import receipt as receipts
from cogvideo_sat_env.install.added import Distribution, distributions
from cogvideo_sat_env.report import facts as known
from cogvideo_sat_env.report.facts import Facts
from cogvideo_sat_env.report.inventory import Inventory, Package, inventory, main_subdir, of_artefact, of_pip
from cogvideo_sat_env.source.wheels.metadata import license_text, requirements


def of_receipt(content: bytes, source: str, facts: Facts) -> Inventory:
    """Return what the receipt `source` says was installed. Raises InputError for one that can't be understood."""
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


def of_prefix(prefix: Path, facts: Facts) -> Inventory:
    """Return what is in the environment at `prefix`, whoever made it: conda's records, and what pip put there.

    `facts` know the archives that its receipt names for pip.
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
        str(prefix), "prefix", str(receipt.get("platform") or main_subdir(packages)), packages,
        _variant(receipt), str(receipt.get("lock_sha256") or ""),
    )  # fmt: skip


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


def _distribution(prefix: Path, found: Distribution, pins: dict[str, PipPin], facts: Facts) -> Package:
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

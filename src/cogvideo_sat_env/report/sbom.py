"""Bills of materials, in CycloneDX's and SPDX's JSON by their own libraries; the same bytes each time.

What there is comes from inventories: purls, SHA-256s, licences in the words of the metadata, sizes where they are
known, and as edges what needs what.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import TYPE_CHECKING

from packageurl import PackageURL

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.artefacts import channel_name
from cogvideo_sat_env.base.errors import MissingToolError
from cogvideo_sat_env.report.graph import make_graph
from cogvideo_sat_env.report.inventory import Inventory, Package

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from license_expression import LicenseExpression
    from spdx_tools.spdx.model import ExtractedLicensingInfo
    from spdx_tools.spdx.model import Package as SpdxPackage

FORMATS = ("cyclonedx", "spdx")
ROOT = "cogvideo-sat-env"
_STAMP = datetime(2020, 1, 1, tzinfo=timezone.utc)  # the day of the making would change the bytes
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_SIZE = "cogvideo-sat-env:archive-size"


@dataclass
class Materials:
    """Packages by reference, the references that each needs, and those that were asked for or needed by nothing."""

    packages: dict[str, Package] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)
    top: set[str] = field(default_factory=set)
    tools: set[str] = field(default_factory=set)  # what a bundle brings for itself

    @property
    def identity(self) -> uuid.UUID:
        """Return an id that is the same for the same packages."""
        return uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(sorted(self.packages)))


def render(inventories: Sequence[Inventory], form: str = "cyclonedx", tools: Sequence[Package] = ()) -> bytes:
    """Return the bill of everything in `inventories`, and of `tools` that a bundle brings for itself.

    Raises MissingToolError for SPDX where its library isn't.
    """
    found = _materials(inventories, tools)
    return _spdx(found) if form == "spdx" else _cyclonedx(found)


def _materials(inventories: Sequence[Inventory], tools: Sequence[Package]) -> Materials:
    found = Materials()
    for inventory in inventories:
        graph = make_graph(inventory)
        for key, several in graph.packages.items():
            wanted = {_ref(package) for need in graph.needs[key] for package in graph.packages[need]}
            for package in several:
                found.packages[_ref(package)] = package
                found.needs.setdefault(_ref(package), set()).update(wanted)
        found.top |= {_ref(package) for root in graph.roots for package in graph.packages[root.key]}
    for package in tools:
        if found.packages.setdefault(_ref(package), package) is package:
            found.tools.add(_ref(package))
            found.top.add(_ref(package))
    return found


def _ref(package: Package) -> str:
    place = package.file_name or f"{package.name}-{package.version}"
    inside = f"{package.subdir}/" if package.subdir else ""
    return f"{package.kind}:{inside}{place}" + (f"#{package.sha256}" if package.sha256 else "")


def purl(package: Package) -> PackageURL:
    """Return the package URL: of conda packages with build, channel and subdir, of pip's with the file."""
    if package.kind == "pip":
        file = {"file_name": package.file_name} if package.file_name else {}
        return PackageURL("pypi", None, package.key, package.version, file)
    qualifiers = {"build": package.build, "subdir": package.subdir}
    if _public(package.channel):
        qualifiers["channel"] = channel_name(package.channel)
    if package.file_name:
        qualifiers["type"] = "tar.bz2" if package.file_name.endswith(".tar.bz2") else "conda"
    return PackageURL("conda", None, package.name, package.version, qualifiers)


def _public(address: str) -> bool:
    return "://" in address and not address.startswith("file:")  # a folder of this machine says nothing elsewhere


def _size(package: Package) -> str:
    return "unknown" if package.size is None else str(package.size)


def _cyclonedx(found: Materials) -> bytes:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.bom_ref import BomRef
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    components = {ref: _component(ref, package, ref in found.tools) for ref, package in sorted(found.packages.items())}
    bom = Bom(
        components=list(components.values()),
        serial_number=found.identity,
        metadata=BomMetaData(
            component=Component(
                name=ROOT, version=__version__, type=ComponentType.APPLICATION, bom_ref=BomRef(ROOT),
                licenses=[LicenseFactory().make_from_string("Apache-2.0")],
            ),
            timestamp=_STAMP,
        ),
    )  # fmt: skip
    for ref, component in components.items():
        bom.register_dependency(component, [components[need] for need in sorted(found.needs.get(ref, ()))])
    bom.register_dependency(bom.metadata.component, [components[ref] for ref in sorted(found.top)])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode("utf-8")


def _component(ref: str, package: Package, is_tool: bool) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom_ref import BomRef
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=package.name, version=package.version, type=ComponentType.LIBRARY, purl=purl(package), bom_ref=BomRef(ref),
        group="tool" if is_tool else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else [],
        licenses=[LicenseFactory().make_from_string(package.licence)] if package.licence else [],
        properties=[Property(name=_SIZE, value=_size(package))],
    )  # fmt: skip


def _spdx(found: Materials) -> bytes:
    if find_spec("spdx_tools") is None:
        raise MissingToolError(
            "spdx-tools is not among the tools of this program; an SBOM in SPDX's format needs it",
            "run scripts/satenv of a checkout, which brings it, or take --format cyclonedx",
        )
    from spdx_tools.spdx import model as spdx
    from spdx_tools.spdx.writer.json.json_writer import write_document_to_stream

    ids = {ref: _spdx_id(ref) for ref in sorted(found.packages)}
    root = f"SPDXRef-{ROOT}"
    info = spdx.CreationInfo(
        "SPDX-2.3", "SPDXRef-DOCUMENT", ROOT, f"https://spdx.org/spdxdocs/{ROOT}-{found.identity}",
        [spdx.Actor(spdx.ActorType.TOOL, f"satenv-{__version__}")], _STAMP.replace(tzinfo=None), data_license="CC0-1.0",
    )  # fmt: skip
    own = spdx.Package(root, ROOT, spdx.SpdxNoAssertion(), version=__version__, files_analyzed=False)
    packages = [own, *(_spdx_package(ids[ref], package) for ref, package in sorted(found.packages.items()))]
    edges = [spdx.Relationship("SPDXRef-DOCUMENT", spdx.RelationshipType.DESCRIBES, root)]
    depends_on = spdx.RelationshipType.DEPENDS_ON
    edges += [spdx.Relationship(root, depends_on, ids[ref]) for ref in sorted(found.top)]
    for ref in ids:
        edges += [spdx.Relationship(ids[ref], depends_on, ids[need]) for need in sorted(found.needs.get(ref, ()))]
    others = _references(found.packages.values())
    document = spdx.Document(info, packages, relationships=edges, extracted_licensing_info=others)
    stream = io.StringIO()
    write_document_to_stream(document, stream, validate=False)
    return (json.dumps(json.loads(stream.getvalue()), sort_keys=True, indent=1) + "\n").encode("utf-8")


def _spdx_id(ref: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", ref.partition("#")[0])
    return f"SPDXRef-{name}-{hashlib.sha256(ref.encode()).hexdigest()[:8]}"


def _expression(words: str | None) -> LicenseExpression | None:
    """Return a licence as an expression of SPDX's names and LicenseRef-…; None for other words."""
    from license_expression import ExpressionError
    from spdx_tools.common.spdx_licensing import spdx_licensing

    try:
        found = spdx_licensing.parse(words)
        others = spdx_licensing.unknown_license_keys(found)
    except (ExpressionError, AttributeError):  # AttributeError: license-expression 30 on a comma
        return None
    return found if found is not None and all(map(_REFERENCE.fullmatch, others)) else None


def _references(packages: Iterable[Package]) -> list[ExtractedLicensingInfo]:
    """Return what an SPDX document has to say of the licences that aren't SPDX's."""
    from spdx_tools.common.spdx_licensing import spdx_licensing
    from spdx_tools.spdx.model import ExtractedLicensingInfo

    expressions = [found for package in packages if (found := _expression(package.licence)) is not None]
    names = {name for found in expressions for name in spdx_licensing.unknown_license_keys(found)}
    return [ExtractedLicensingInfo(name, "in the package", license_name=name) for name in sorted(names)]


def _spdx_package(spdx_id: str, package: Package) -> SpdxPackage:
    from spdx_tools.spdx import model as spdx

    words = package.licence
    licence, unknown = _expression(words), spdx.SpdxNoAssertion()
    return spdx.Package(
        spdx_id, package.name, package.url if _public(package.url) else unknown, version=package.version,
        file_name=package.file_name or None, files_analyzed=False,
        license_declared=unknown if licence is None else licence,
        license_comment=f"in the words of its metadata: {words}" if words and licence is None else None,
        checksums=[spdx.Checksum(spdx.ChecksumAlgorithm.SHA256, package.sha256)] if package.sha256 else [],
        external_references=[
            spdx.ExternalPackageRef(
                spdx.ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", purl(package).to_string()
            )
        ],
        comment=f"archive size in bytes: {_size(package)}",
    )  # fmt: skip

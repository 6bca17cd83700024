"""The bill of materials of a bundle, in CycloneDX JSON by CycloneDX's own library; the same bytes each time."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.bom_ref import BomRef
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.source.mirror.repodata import Info
from cogvideo_sat_env.source.mirror.selection import CondaFile, Part

_STAMP = datetime(2020, 1, 1, tzinfo=timezone.utc)  # the day of the making would change the bytes


def render(parts: Sequence[Part], infos: Mapping[str, Info], tool: Sequence[PipPin]) -> bytes:
    """Return the SBOM of everything that a bundle installs or brings for itself."""
    components: dict[str, Component] = {}
    for part in parts:
        for item in part.conda:
            component = _conda(item, infos[item.path].index)
            components[component.bom_ref.value] = component
        for pin in part.pip:
            components[f"pypi:{pin.file_name}"] = _pip(pin, "environment")
    for pin in tool:
        components.setdefault(f"pypi:{pin.file_name}", _pip(pin, "tool"))
    identity = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(sorted(f"{c.bom_ref.value}" for c in components.values())))
    bom = Bom(
        components=[components[key] for key in sorted(components)],
        serial_number=identity,
        metadata=BomMetaData(
            component=Component(
                name="cogvideo-sat-env", version=__version__, type=ComponentType.APPLICATION,
                bom_ref=BomRef("cogvideo-sat-env"), licenses=[LicenseFactory().make_from_string("Apache-2.0")],
            ),
            timestamp=_STAMP,
        ),
    )  # fmt: skip
    bom.register_dependency(bom.metadata.component, bom.components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode("utf-8")


def _conda(item: CondaFile, index: Mapping[str, object]) -> Component:
    artefact = item.artefact
    qualifiers = {"build": artefact.build, "channel": item.path.split("/")[0], "subdir": artefact.subdir}
    licence = str(index.get("license") or "")
    return Component(
        name=artefact.name, version=artefact.version, type=ComponentType.LIBRARY,
        purl=PackageURL("conda", None, artefact.name, artefact.version, qualifiers),
        bom_ref=BomRef(f"conda:{item.path}#{artefact.sha256}"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=artefact.sha256)],
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )  # fmt: skip


def _pip(pin: PipPin, kind: str) -> Component:
    return Component(
        name=pin.name, version=pin.version, type=ComponentType.LIBRARY, group=kind,
        purl=PackageURL("pypi", None, pin.name.lower().replace("_", "-"), pin.version, {"file_name": pin.file_name}),
        bom_ref=BomRef(f"pypi:{pin.file_name}#{pin.sha256}"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=pin.sha256)],
    )  # fmt: skip

"""SBOMs are what the official schemas take, the same each time, and say no more than is known."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from cogvideo_sat_env.base.errors import MissingToolError
from cogvideo_sat_env.report import sbom
from cogvideo_sat_env.report.inventory import Inventory, Package, inventory
from cogvideo_sat_env.report.sbom import render
from cogvideo_sat_env.report.sources import read
from conftest import PROJECT
from install.conftest import Site

CHANNEL = "https://conda.anaconda.org/conda-forge"


def package(name: str, **facts: Any) -> Package:
    given = {"version": "1.0", "build": "h0_0", "kind": "conda", "channel": CHANNEL, "subdir": "linux-64",
             "file_name": f"{name}-1.0-h0_0.conda", "sha256": name.encode().hex().ljust(64, "0"),
             "url": f"{CHANNEL}/linux-64/{name}-1.0-h0_0.conda", **facts}  # fmt: skip
    return Package(name, **given)


def small() -> Inventory:
    pip = {"kind": "pip", "channel": "", "subdir": "", "url": "", "build": ""}
    return inventory("x", "lock", "linux-64", [
        package("top", depends=("lib >=1", "__glibc", "absent"), licence="MIT OR Apache-2.0", size=10),
        package("lib", licence="LicenseRef-NVIDIA-End-User-License-Agreement"),
        package("words", licence="Apache License, Version 2.0", file_name="words-1.0-h0_0.tar.bz2"),
        package("Wheel_of", file_name="wheel_of-1.0-py3-none-any.whl", depends=("lib", "torch>=2"), **pip),
        package("pytorch", sha256="", url="", channel="file:///home/somebody/cache", file_name=""),
    ])  # fmt: skip


def proven(content: bytes) -> dict[str, Any]:
    """Return the document, which its format's own validator takes."""
    found = json.loads(content)
    if "bomFormat" in found:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode()) is None
    else:
        assert validate_full_spdx_document(JsonLikeDictParser().parse(found)) == []
    return found


@pytest.mark.parametrize("form", sbom.FORMATS)
def test_a_bill_is_valid_and_the_same_each_time(form: str) -> None:
    content = render([small()], form)
    again = replace(small(), packages=tuple(reversed(small().packages)), source="/another/place")
    assert render([again], form) == content == render([small(), small()], form)
    proven(content)
    assert b"/home/somebody" not in content


def test_cyclonedx_has_purls_hashes_licences_sizes_and_edges() -> None:
    found = proven(render([small()]))
    parts = {part["name"]: part for part in found["components"]}
    assert parts["top"]["purl"] == "pkg:conda/top@1.0?build=h0_0&channel=conda-forge&subdir=linux-64&type=conda"
    assert parts["words"]["purl"].endswith("&type=tar.bz2")
    assert parts["Wheel_of"]["purl"] == "pkg:pypi/wheel-of@1.0?file_name=wheel_of-1.0-py3-none-any.whl"
    assert parts["pytorch"]["purl"] == "pkg:conda/pytorch@1.0?build=h0_0&subdir=linux-64"
    assert parts["top"]["hashes"] == [{"alg": "SHA-256", "content": small().find("top").sha256}]
    assert "hashes" not in parts["pytorch"]
    assert parts["top"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert parts["words"]["licenses"] == [{"license": {"name": "Apache License, Version 2.0"}}]
    assert [parts[name]["properties"][0]["value"] for name in ("top", "lib")] == ["10", "unknown"]  # never zero
    refs = {part["bom-ref"]: name for name, part in parts.items()}
    edges = {refs.get(e["ref"], e["ref"]): {refs[ref] for ref in e.get("dependsOn", ())} for e in found["dependencies"]}
    assert edges["top"] == {"lib"} and edges["Wheel_of"] == {"lib", "pytorch"} and not edges["lib"]
    assert edges["cogvideo-sat-env"] == {"top", "words", "Wheel_of"}


def test_spdx_says_the_same() -> None:
    found = proven(render([small()], "spdx"))
    parts = {part["name"]: part for part in found["packages"]}
    assert parts["top"]["licenseDeclared"] == "MIT OR Apache-2.0"
    assert parts["top"]["externalRefs"][0]["referenceLocator"].startswith("pkg:conda/top@1.0?")
    assert parts["top"]["checksums"][0]["checksumValue"] == small().find("top").sha256
    assert parts["lib"]["licenseDeclared"] == "LicenseRef-NVIDIA-End-User-License-Agreement"
    assert [one["licenseId"] for one in found["hasExtractedLicensingInfos"]] == [parts["lib"]["licenseDeclared"]]
    assert parts["words"]["licenseDeclared"] == "NOASSERTION"
    assert parts["words"]["licenseComments"] == "in the words of its metadata: Apache License, Version 2.0"
    assert parts["pytorch"]["downloadLocation"] == "NOASSERTION"
    assert parts["lib"]["comment"] == "archive size in bytes: unknown"
    names = {part["SPDXID"]: part["name"] for part in found["packages"]}
    edges = {
        (names[edge["spdxElementId"]], names[edge["relatedSpdxElement"]])
        for edge in found["relationships"]
        if edge["relationshipType"] == "DEPENDS_ON"
    }
    assert {("top", "lib"), ("Wheel_of", "pytorch"), ("cogvideo-sat-env", "top")} <= edges
    assert ("cogvideo-sat-env", "lib") not in edges


def test_what_a_bundle_brings_for_itself_is_told_apart() -> None:
    tool = package("click", kind="pip", channel="", subdir="", url="", build="", file_name="click-1.0-py3-none-any.whl")
    found = proven(render([small()], tools=[tool]))
    assert {part["name"] for part in found["components"] if part.get("group") == "tool"} == {"click"}
    proven(render([small()], "spdx", [tool]))


@pytest.mark.parametrize("form", sbom.FORMATS)
def test_an_environments_bill(site: Site, form: str) -> None:
    site.install(site.home / "env")
    found = proven(render(read(site.home / "env"), form))
    listed = {part["name"]: part for part in found.get("components") or found["packages"]}
    assert {artefact.name for artefact in site.artefacts} <= listed.keys()
    assert site.artefact("purepy").sha256 in json.dumps(listed["purepy"])


def test_without_spdx_tools_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(sbom, "find_spec", lambda name: None if name == "spdx_tools" else real(name))
    with pytest.raises(MissingToolError, match="an SBOM in SPDX's format needs it") as caught:
        render([small()], "spdx")
    assert "--format cyclonedx" in caught.value.remedy
    proven(render([small()]))


@pytest.mark.slow
@pytest.mark.parametrize("form", sbom.FORMATS)
def test_the_projects_lock_has_a_bill_by_the_command(tmp_path: Path, form: str) -> None:
    out = tmp_path / "sbom.json"
    command = [sys.executable, "-m", "cogvideo_sat_env", "sbom", "--format", form, "--platform", "linux-64", "-o", out]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT / "src")
    assert run.returncode == 0, run.stderr
    found = proven(out.read_bytes())
    parts = found.get("components") or found["packages"]
    assert (len(parts) > 400 and "archive-size" in out.read_text()) or "archive size in bytes" in out.read_text()
    assert '"unknown"' not in out.read_text()  # all sizes are committed
    bad = [*command[:4], "/etc/hostname"]
    assert subprocess.run(bad, capture_output=True, check=False, cwd=PROJECT / "src").returncode == 3

"""Advisories that the user has against locks and environments; the doctor's tests have the rules of versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.report.audit import audit
from cogvideo_sat_env.report.inventory import Inventory, Package, inventory
from cogvideo_sat_env.report.sources import read
from conftest import PROJECT
from install.conftest import Site, make_wheel, pin


def advisory(name: str = "torch", ecosystem: str = "PyPI", fixed: str = "3.0", **more: Any) -> dict[str, Any]:
    events = [{"introduced": "0"}, {"fixed": fixed}]
    affected = {"package": {"ecosystem": ecosystem, "name": name}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    return {"id": f"GHSA-{name}", "aliases": [f"CVE-{name}"], "summary": "bad", "affected": [affected], **more}


def package(
    name: str, version: str = "1.0", kind: str = "conda", depends: tuple[str, ...] = ("python >=3",)
) -> Package:
    return Package(name, version, "0", kind, "", "", "", "", depends=depends)


def small(platform: str = "linux-64") -> Inventory:
    return inventory("x.yml", "lock", platform, [
        package("pytorch", "2.10.0"), package("openssl", "3.6", depends=("ca-certificates",)),
        package("SwissArmyTransformer", "0.4.12", "pip"), package("some_thing", "2024_1"),
    ])  # fmt: skip


def found(tmp_path: Path, content: object, *inventories: Inventory, accepted: tuple[str, ...] = ()) -> Any:
    path = tmp_path / "osv.json"
    path.write_text(json.dumps(content))
    return audit(inventories or [small()], path, accepted)


def test_what_applies_is_named_by_pypi_name_with_platforms_and_fix(tmp_path: Path) -> None:
    two = (small("linux-64"), small("osx-arm64"))
    content = [advisory(), advisory("openssl"), advisory("swissarmytransformer", fixed="0.4"), advisory("x", "npm")]
    result = found(tmp_path, content, *two)
    assert result.exit_code == 1 and result.advisories == 4
    assert result.to_text().splitlines() == [
        "torch 2.10.0 on linux-64, osx-arm64: GHSA-torch (CVE-torch): bad; fixed in 3.0",
        "1 known vulnerabilities in 3 Python packages, by 4 advisories",
        "1 conda packages are none of PyPI's: OSV has no advisories about them",
    ]
    assert json.loads(json.dumps(result.to_json()))["hits"][0]["platforms"] == ["linux-64", "osx-arm64"]
    left = found(tmp_path, content, accepted=("CVE-torch",))
    assert left.exit_code == 0 and left.accepted == {"CVE-torch"} and "accepted: CVE-torch" in left.to_text()
    odd = found(tmp_path, [advisory("some-thing")])
    assert "not judged, because a version isn't PEP 440: some-thing 2024_1: GHSA-some-thing" in odd.to_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([advisory(ecosystem="npm"), advisory(ecosystem="Debian:12")], r"are about (npm|Debian) \(1\).*some about PyPI"),
        ([], "no advisories in"),
        ({"id": "x", "affected": 3}, "expected advisories in OSV's JSON format"),
        ({"bomFormat": "CycloneDX"}, "expected advisories in OSV's JSON format"),
        ([advisory(affected=[{"package": {"ecosystem": "PyPI", "name": "torch"}, "ranges": [3]}])], "GHSA-torch: "),
        ([advisory(affected=[3])], "GHSA-torch: "),
    ],
    ids=["of other ecosystems", "empty", "malformed", "an SBOM", "malformed range", "malformed affected"],
)  # fmt: skip
def test_advisories_that_cannot_answer_are_refused(tmp_path: Path, content: object, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        found(tmp_path, content)
    assert "osv.json" in caught.value.message or "GHSA" in caught.value.message


def test_a_file_that_is_no_json_or_not_there_is_named(tmp_path: Path) -> None:
    for name, content in (("a.json", b"\xff\xfe"), ("b.json", b"{"), ("c.zip", b"PK\5\6" + bytes(18)), ("d", None)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            audit([small()], tmp_path / name)


@pytest.mark.slow
def test_an_environment_is_audited_by_the_command(site: Site, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", "tiny", "0.1", {"tiny.py": ""})
    site.install(site.home / "env", [pin(wheel, "tiny", "0.1")], links=[wheel.parent.as_uri()])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:  # as OSV gives it
        for name in ("tiny", "purepy", "data"):
            archive.writestr(f"{name}.json", json.dumps(advisory(name)))
    command = [sys.executable, "-m", "cogvideo_sat_env", "audit", "--osv", tmp_path / "all.zip", "--json"]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    run = subprocess.run([*command, site.home / "env"], capture_output=True, text=True, check=False, env=variables)
    assert run.returncode == 1, run.stderr
    hits = {hit["name"]: hit["version"] for hit in json.loads(run.stdout)["hits"]}
    assert hits == {"tiny": "0.1", "purepy": "2.0"}  # `data` is no Python package
    assert "data" in json.loads(run.stdout)["not_python"]


@pytest.mark.slow
def test_the_projects_python_packages_are_all_judged(tmp_path: Path) -> None:
    (tmp_path / "osv.json").write_text(json.dumps(advisory("aiohttp", fixed="99")))
    result = audit(read(PROJECT / "conda-lock.yml", ["linux-64"]), tmp_path / "osv.json")
    assert [hit.name for hit in result.hits] == ["aiohttp"]
    assert result.packages > 100 and {"openssl", "ffmpeg"} & set(result.others)
    assert not {"numpy", "pillow", "urllib3", "requests", "pytorch"} & set(result.others)

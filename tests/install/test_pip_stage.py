"""Files from a package index: proven by hash, built in the environment, never over a file of conda's."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import channelserver
import packages
from cogvideo_sat_env.base.artefacts import PipPin
from cogvideo_sat_env.base.errors import PrefixError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.install import pip_stage, receipt
from cogvideo_sat_env.install.prefix_python import PrefixPython

from .conftest import CHANNEL, Site, make_wheel, pin

pytestmark = pytest.mark.slow

# A build backend inside the sdist: what is tested is where it runs, not setuptools.
BACKEND = """
import sys, zipfile
assert ".satenv-new-" in sys.prefix, sys.prefix
assert not any("leak" in path for path in sys.path), sys.path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "tinysdist-0.2.dist-info"
    with zipfile.ZipFile(f"{folder}/tinysdist-0.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinysdist.py", f"VALUE = 2\\nBUILT_BY = {sys.executable!r}\\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tinysdist\\nVersion: 0.2\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"tinysdist.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n")
    return "tinysdist-0.2-py3-none-any.whl"
"""


def make_sdist(folder: Path, backend: str = BACKEND) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tinysdist-0.2.tar.gz"
    content = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
        "PKG-INFO": "Metadata-Version: 2.1\nName: tinysdist\nVersion: 0.2\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in content.items():
            member = tarfile.TarInfo(f"tinysdist-0.2/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def index(
    sample_with_pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Site, dict[str, PipPin]]]:
    """A machine whose channel has pip, and whose pip is configured for a loopback index."""
    root = tmp_path / "served"
    root.mkdir()
    scripts = "[console_scripts]\ntiny = tiny:main\n"
    wheel = make_wheel(root / "files", "tiny", "0.1", {"tiny.py": "def main():\n    print('tiny main')\n"}, scripts)
    pins = {"tiny": pin(wheel, "tiny", "0.1"), "tinysdist": pin(make_sdist(root / "files"), "tinysdist", "0.2")}
    (tmp_path / "envs").mkdir()
    shutil.copytree(sample_with_pip / "conda-forge", root / "conda-forge")
    with channelserver.serving(root) as server:
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", server.index_url)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")  # this machine's own index is not asked
        monkeypatch.setenv("PIP_RETRIES", "0")
        site = Site(server, packages.artefacts(root / "conda-forge", CHANNEL), tmp_path / "cache", tmp_path / "envs")
        yield site, pins


@pytest.mark.e2e
def test_a_wheel_and_a_source_are_laid_out_for_the_final_prefix(
    index: tuple[Site, dict[str, PipPin]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site, pins = index
    leak = tmp_path / "leak"
    leak.mkdir()
    (leak / "sitecustomize.py").write_text("raise SystemExit('the PYTHONPATH of the user leaked in')\n")
    monkeypatch.setenv("PYTHONPATH", str(leak))
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    prefix = site.home / "env"
    result = site.install(prefix, list(pins.values()))
    assert result.status == "created" and result.packages == len(site.artefacts) + 2
    monkeypatch.delenv("PYTHONPATH")
    said = subprocess.run([prefix / "bin" / "tiny"], capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("tiny main\n", "")
    assert (prefix / "bin" / "tiny").read_text().startswith(f"#!{prefix}/bin/python\n")
    code = "import tinysdist; print(tinysdist.VALUE)"
    assert subprocess.run([prefix / "bin" / "python", "-c", code], capture_output=True, text=True).stdout == "2\n"
    site_packages = packages.site_packages(prefix)
    assert (site_packages / "tiny-0.1.dist-info" / "INSTALLER").read_text() == "satenv\n"
    assert str(prefix).encode() in next(site_packages.glob("__pycache__/tiny.*.pyc")).read_bytes()
    listed = subprocess.run([prefix / "bin" / "python", "-m", "pip", "list"], capture_output=True, text=True)
    assert "tinysdist" in listed.stdout, listed.stderr
    manifest = receipt.read(prefix)["files"]
    assert f"{site_packages.relative_to(prefix)}/tiny.py" in manifest and "bin/tiny" in manifest
    assert site.leftovers() == []


@pytest.mark.e2e
def test_the_second_prefix_asks_no_index(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, pins = index
    site.install(site.home / "one", list(pins.values()))
    site.server.heal()
    site.install(site.home / "two", list(pins.values()))
    assert site.server.requests == []
    site.server.heal()
    assert site.install(site.home / "two", list(pins.values())).status == "up-to-date"


def test_a_wheelhouse_is_asked_in_place_of_the_index(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, pins = index
    site.install(site.home / "env", list(pins.values()), links=[str(site.server.root / "files")])
    assert not [path for path in site.server.requests if path.startswith(("/simple", "/files"))]


def test_a_flipped_bit_in_a_wheel_is_named_with_both_hashes(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, pins = index
    site.server.fail(pins["tiny"].file_name, "flip")
    with pytest.raises(VerificationError, match="expected SHA-256") as caught:
        site.install(site.home / "env", [pins["tiny"]])
    assert pins["tiny"].file_name in caught.value.message and pins["tiny"].sha256 in caught.value.message
    assert "found" in caught.value.message
    assert not (site.home / "env").exists() and site.leftovers() == []


@pytest.mark.e2e
def test_another_file_of_the_same_version_is_refused(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, pins = index
    wrong = PipPin("tiny", "0.1", "0" * 64, pins["tiny"].file_name)
    with pytest.raises(VerificationError, match="0" * 64):
        site.install(site.home / "env", [wrong])
    assert not (site.home / "env").exists() and site.leftovers() == []


@pytest.mark.e2e
def test_an_index_without_the_file_is_named(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, _pins = index
    with pytest.raises(SourceError, match="no file for absent==1.0"):
        site.install(site.home / "env", [PipPin("absent", "1.0", "1" * 64, "absent-1.0-py3-none-any.whl")])
    assert not (site.home / "env").exists() and site.leftovers() == []


@pytest.mark.e2e
def test_an_index_that_is_away_is_told(index: tuple[Site, dict[str, PipPin]], monkeypatch: pytest.MonkeyPatch) -> None:
    site, pins = index
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/index/")
    with pytest.raises(SourceError, match="tiny==0\\.1 .*can't be reached: "):
        site.install(site.home / "env", [pins["tiny"]])
    assert not (site.home / "env").exists() and site.leftovers() == []


@pytest.mark.e2e
def test_a_build_that_fails_shows_its_last_words(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, _ = index
    sdist = make_sdist(site.server.root / "files", "raise SystemExit('ERROR: no such compiler')\n")
    with pytest.raises(SatenvError, match="can't be built") as caught:
        site.install(site.home / "env", [pin(sdist, "tinysdist", "0.2")])
    assert "no such compiler" in caught.value.message
    assert not (site.home / "env").exists() and site.leftovers() == []


PATCH = """\
What it is for.

--- a/tiny.py
+++ b/tiny.py
@@ -1,2 +1,2 @@
 def main():
-    print('tiny main')
+    print('patched main')
"""


def test_patches_are_in_what_is_laid_out_and_the_fingerprint_knows(
    index: tuple[Site, dict[str, PipPin]], tmp_path: Path
) -> None:
    site, pins = index
    patch = tmp_path / "0001-other-words.patch"
    patch.write_text(PATCH)
    prefix, links = site.home / "env", [str(site.server.root / "files")]
    site.install(prefix, [pins["tiny"]], links=links, patches={"tiny": [patch]})
    assert subprocess.run([prefix / "bin" / "tiny"], capture_output=True, text=True).stdout == "patched main\n"
    (record,) = prefix.glob("lib/python*/site-packages/tiny-0.1.dist-info/RECORD")
    digest = base64.urlsafe_b64encode(hashlib.sha256((record.parents[1] / "tiny.py").read_bytes()).digest())
    assert f"tiny.py,sha256={digest.decode().rstrip('=')}," in record.read_text()
    assert site.install(prefix, [pins["tiny"]], links=links, patches={"tiny": [patch]}).status == "up-to-date"
    with pytest.raises(PrefixError, match="holds another environment"):
        site.install(prefix, [pins["tiny"]], links=links)  # without them it is another environment
    patch.write_text(PATCH.replace("tiny main", "tiny"))
    with pytest.raises(VerificationError, match=r"0001-other-words\.patch: tiny\.py: line 1 is not what"):
        site.install(site.home / "other", [pins["tiny"]], links=links, patches={"tiny": [patch]})
    assert not (site.home / "other").exists() and site.leftovers() == []


def test_pip_may_not_overwrite_a_file_of_conda(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, _ = index
    wheel = make_wheel(site.server.root / "files", "rival", "1.0", {"purepy/__init__.py": "HIJACKED = True\n"})
    with pytest.raises(PrefixError, match=r"rival 1.0 \(pip\) would overwrite .*purepy/__init__.py") as caught:
        site.install(site.home / "env", [pin(wheel, "rival", "1.0")])
    assert "purepy 2.0 (conda)" in caught.value.message
    assert not (site.home / "env").exists() and site.leftovers() == []
    (folder,) = (path for path in (site.cache / "pkgs").glob("purepy-*") if path.is_dir())
    cached = folder / "site-packages" / "purepy" / "__init__.py"
    assert "HIJACKED" not in cached.read_text()


@pytest.mark.e2e
def test_two_wheels_may_not_share_a_file(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, pins = index
    wheel = make_wheel(site.server.root / "files", "rival", "1.0", {"tiny.py": "HIJACKED = True\n"})
    with pytest.raises(PrefixError, match=r"belongs to tiny 0.1 \(pip\)"):
        site.install(site.home / "env", [pins["tiny"], pin(wheel, "rival", "1.0")])


@pytest.mark.parametrize("member", ["../../../../escaped.py", "rival-1.0.data/data/../../../escaped.py"])
def test_a_wheel_can_not_write_outside_of_the_prefix(index: tuple[Site, dict[str, PipPin]], member: str) -> None:
    site, _ = index
    wheel = make_wheel(site.server.root / "files", "rival", "1.0", {member: "x = 1\n"})
    with pytest.raises(VerificationError, match="is no proper wheel"):
        site.install(site.home / "env", [pin(wheel, "rival", "1.0")])
    assert not list(site.home.parent.rglob("escaped.py")) and site.leftovers() == []


@pytest.mark.fault("claims-ours", "error", "names the wheel and the path that the program itself makes")
@pytest.mark.parametrize(
    "path",
    [
        "etc/cogvideo-sat-env/receipt.json", "etc/cogvideo-sat-env", "etc/conda/activate.d/cogvideo-sat-env.sh",
        "etc/cogvideo-sat-env/activate.py", "conda-meta/history", "conda-meta/state", "conda-meta/tiny-0-0.json",
        "bin/activate-cogvideo-sat", "etc/conda", "door/receipt.json", "script", "site",
    ],
)  # fmt: skip
def test_a_wheel_that_claims_a_path_of_ours_is_refused(tmp_path: Path, path: str) -> None:
    root, site, points = tmp_path / "root", "lib/python3.11/site-packages", ""
    (root / "etc/cogvideo-sat-env").mkdir(parents=True)
    (root / "door").symlink_to("etc/cogvideo-sat-env")
    if path in ("etc/cogvideo-sat-env", "etc/conda"):
        shutil.rmtree(root / "etc")
    member = f"rival-1.0.data/data/{path}"
    if path == "script":
        path, member, points = "bin/activate-cogvideo-sat.fish", "rival.py", "activate-cogvideo-sat.fish"
        points = f"[console_scripts]\n{points} = rival:main\n"
    elif path == "site":
        path, member = f"{site}/rival/__pycache__", "rival/__pycache__"
    wheel = make_wheel(tmp_path, "rival", "1.0", {member: "x = 1\n"}, points)
    wanted = pin(wheel, "rival", "1.0")
    python = PrefixPython(root / "bin/python", root, "3.11", {"purelib": site, "platlib": site})
    named = re.escape(path.replace("door", "etc/cogvideo-sat-env"))
    with pytest.raises(VerificationError, match=rf"^rival-1\.0-py3-none-any\.whl: .* {named}, which"):
        pip_stage.lay_out(python, [wanted], {wanted.sha256: wheel}, tmp_path / "env", Silent())


@pytest.mark.e2e
def test_a_wheel_of_another_name_is_refused(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, _ = index
    real = make_wheel(site.server.root / "other", "impostor", "1.0", {"impostor.py": ""})
    wheel = site.server.root / "files" / "rival-1.0-py3-none-any.whl"
    shutil.copy(real, wheel)
    with pytest.raises((VerificationError, SatenvError), match="impostor|inconsistent"):
        site.install(site.home / "env", [pin(wheel, "rival", "1.0")])
    assert not (site.home / "env").exists() and site.leftovers() == []


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "said"), [("403", "403"), ("404", "has no file for"), ("500", "500")])
def test_an_index_that_refuses_the_file_is_quoted(index: tuple[Site, dict[str, PipPin]], kind: str, said: str) -> None:
    site, pins = index
    site.server.fail(pins["tiny"].file_name, kind)
    with pytest.raises(SourceError, match=said):
        site.install(site.home / "env", [pins["tiny"]])
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_pip_pins_without_pip_are_explained(site: Site) -> None:
    with pytest.raises(PrefixError, match="has no pip"):
        site.install(site.home / "env", [PipPin("tiny", "0.1", "2" * 64, "tiny-0.1-py3-none-any.whl")])
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_conda_meta_is_whole_json_after_the_pip_stage(index: tuple[Site, dict[str, PipPin]]) -> None:
    site, pins = index
    prefix = site.home / "env"
    site.install(prefix, [pins["tiny"]])
    records = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
    assert {record["name"] for record in records} == {a.name for a in site.artefacts}

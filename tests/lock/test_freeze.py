"""Freezing channel metadata: what a lock can be made from again, proven by its manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard

from channelserver import ChannelServer, serving
from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.lock import pip_index
from cogvideo_sat_env.lock.freeze import freeze
from cogvideo_sat_env.lock.frozen import frozen_channels, frozen_projects
from cogvideo_sat_env.lock.make import Solver, lock_variant
from cogvideo_sat_env.lock.pip_index import ProjectRelease
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.variants import derive, read_variants

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
VARIANTS = read_variants()
FORGE = "https://conda.anaconda.org/conda-forge"


def record(name: str, version: str = "1.0", *depends: str) -> dict:
    return {
        "name": name, "version": version, "build": "0", "build_number": 0, "subdir": "noarch", "noarch": "generic",
        "depends": list(depends), "sha256": "a" * 64, "md5": "b" * 32, "size": 7, "license_family": "MIT",
    }  # fmt: skip


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A project that asks for `alpha`, and channels that have it, what it needs, and something else."""
    primary = [variant for variant in VARIANTS if variant.is_primary]  # the others change what isn't in this project
    for module in ("freeze", "freeze_index"):
        monkeypatch.setattr(f"cogvideo_sat_env.lock.{module}.read_variants", lambda: primary)
    root = tmp_path / "project"
    root.mkdir()
    (root / "environment.yml").write_text("channels: [conda-forge]\ndependencies: [alpha >=1, python 3.11.*]\n")
    records = [
        record("alpha", "1.0", "beta >=1"), record("alpha", "0.5", "old[version='>=2']"), record("beta"),
        record("old", "2.0", "gamma>=3"), record("gamma", "3.0"), record("unasked", "1.0", "alpha"),
    ]  # fmt: skip
    content = {"packages": {}, "packages.conda": {f"{r['name']}-{r['version']}-0.conda": r for r in reversed(records)}}
    path = tmp_path / "channels" / "conda-forge" / "noarch" / "repodata.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return root, tmp_path / "channels"


def unpacked(path: Path) -> dict:
    return json.loads(zstandard.ZstdDecompressor().decompress(path.read_bytes(), 1 << 20))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_version_of_what_can_be_needed_is_kept_and_nothing_else(small, tmp_path):
    root, channels = small
    out = tmp_path / "deep" / "frozen"
    freeze(root, out, frozen=channels, progress=Silent())
    content = unpacked(out / "conda-forge" / "noarch" / "repodata.json.zst")
    names = [name.removesuffix("-0.conda") for name in content["packages.conda"]]
    assert names == ["alpha-0.5", "alpha-1.0", "beta-1.0", "gamma-3.0", "old-2.0"]
    kept = content["packages.conda"]["alpha-1.0-0.conda"]
    assert kept["depends"] == ["beta >=1"] and kept["sha256"] == "a" * 64
    assert not {"url", "channel", "fn", "license_family"} & set(kept)
    assert "/" not in "".join(content["info"].values()) and str(tmp_path) not in (out / "manifest.json").read_text()


def test_it_is_the_same_again_also_from_itself_and_replaces_what_it_made(small, tmp_path):
    root, channels = small
    out = tmp_path / "frozen"
    freeze(root, out, frozen=channels, progress=Silent())
    first = files(out)
    (out / "left-over").write_text("of an older run")
    freeze(root, out, frozen=out, progress=Silent())
    assert files(out) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["channels", "frozen", "project"]


def test_a_folder_of_the_users_is_not_replaced(small, tmp_path):
    root, channels = small
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"mine: not empty, and not made by this command"):
        freeze(root, tmp_path / "mine", frozen=channels, progress=Silent())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda path: path.write_bytes(zstandard.compress(b'{"packages": {}}')), VerificationError, "expected SHA-256"),
        (lambda path: path.unlink(), VerificationError, "found no such file"),
        (lambda path: shutil.copy(path, path.with_name("repodata.json")), VerificationError, "doesn't name it"),
        (lambda path: (path.parents[2] / "manifest.json").write_text("{}"), InputError, "not the manifest"),
        (lambda path: (path.parents[2] / "manifest.json").write_text('{"format": 9, "files": {}}'), InputError,
         "format 9; expected 2"),
    ],
    ids=["changed", "missing", "added", "no manifest", "later format"],
)  # fmt: skip
def test_what_the_manifest_does_not_say_is_not_locked_against(small, tmp_path, change, error, words):
    root, channels = small
    out = tmp_path / "frozen"
    freeze(root, out, frozen=channels, progress=Silent())
    change(out / "conda-forge" / "noarch" / "repodata.json.zst")
    with pytest.raises(error, match=words), frozen_channels(out, [FORGE]):
        pass


def test_a_channel_that_does_not_answer_leaves_everything_as_it_was(small, tmp_path):
    root, channels = small
    out = tmp_path / "frozen"
    freeze(root, out, frozen=channels, progress=Silent())
    before = files(out)
    (root / "environment.yml").write_text("channels: ['http://127.0.0.1:9/nowhere']\ndependencies: [alpha]\n")
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/nowhere"):
        freeze(root, out, frozen=None, progress=Silent())
    assert files(out) == before


PAGES = {
    "pie": [("pie-1.0", "numpy-like>=1"), ("pie-2.0", "crust>=1"), ("pie-3.0", "crust>=1"), ("pie-4.0", "oven; extra=='x'"),
            ("pie-5.0", "")],
    "crust": [("crust-1.0", 'flour[fine]; python_version >= "3"'), ("crust-0.1", "")],
    "flour": [("flour-1.0", "sieve; extra == 'fine'")],
    "sieve": [("sieve-1.0", "")],
}  # fmt: skip


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChannelServer:
    """A package index of wheels that hold nothing but metadata."""
    folder = tmp_path / "index" / "files"
    folder.mkdir(parents=True)
    for project, releases in PAGES.items():
        for release, requirement in releases:
            with zipfile.ZipFile(folder / f"{release}-py3-none-any.whl", "w") as archive:
                lines = [f"Name: {project}", f"Version: {release.partition('-')[2]}", "Requires-Python: >=3.9"]
                lines += [f"Requires-Dist: {requirement}"] if requirement else []
                info = f"{release}.dist-info"
                archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
                archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
                archive.writestr(f"{info}/RECORD", "")
    with serving(folder.parent) as server:
        monkeypatch.setenv("PIP_INDEX_URL", server.index_url)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        yield server


def test_of_an_index_all_files_are_kept_and_the_requirements_of_candidates_without_its_address(small, index, tmp_path):
    root, channels = small
    (root / "environment.yml").write_text(
        "channels: [conda-forge]\ndependencies: [alpha >=1, python 3.11.*, pip: [pie <5]]\n"
    )
    out = tmp_path / "frozen"
    freeze(root, out, frozen=channels, progress=Silent())
    projects = frozen_projects(out)
    assert sorted(projects) == ["crust", "flour", "pie", "sieve"]
    assert len(projects["pie"].files) == 5 and all(len(file.sha256) == 64 for file in projects["pie"].files)
    assert sorted(projects["pie"].releases) == ["2.0", "3.0", "4.0", "5.0"]  # the newest three allowed, and the newest
    assert projects["crust"].releases == {"1.0": ProjectRelease(('flour[fine]; python_version >= "3"',), ">=3.9")}
    plain = zstandard.ZstdDecompressor().decompress((out / pip_index.PATH).read_bytes(), 1 << 20)
    assert b"127.0.0.1" not in plain and b"://" not in plain
    index.close()
    freeze(root, tmp_path / "again", frozen=out, progress=Silent())  # from itself: no index is asked
    assert files(tmp_path / "again") == files(out)
    (out / pip_index.PATH).write_bytes(zstandard.compress(b"{}"))
    with pytest.raises(VerificationError, match=r"projects\.json\.zst: expected SHA-256"):
        frozen_projects(out)


def test_what_the_locks_hold_must_be_in_what_is_frozen(small, tmp_path):
    root, channels = small
    lock = root / VARIANTS[0].lock
    shutil.copy(PROJECT / lock.name, lock)
    with pytest.raises(SourceError, match=r"lacks what the locks hold: .*\.conda.* and \d+ more"):
        freeze(root, tmp_path / "frozen", frozen=channels, progress=Silent())
    assert not (tmp_path / "frozen").exists()


def rewritten(folder: Path, change) -> Path:
    """Copy the committed metadata, its index part changed, with a manifest that says so."""
    shutil.copytree(PROJECT / "metadata", folder)
    content = json.loads(zstandard.ZstdDecompressor().decompress((folder / pip_index.PATH).read_bytes(), 1 << 28))
    change(content)
    (folder / pip_index.PATH).write_bytes(zstandard.compress(json.dumps(content).encode()))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][pip_index.PATH]["sha256"] = hashlib.sha256((folder / pip_index.PATH).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("webdataset"), "webdataset: not in the frozen metadata"),
        (lambda content: content["webdataset"]["releases"].pop("0.2.86"),
         "webdataset: the requirements of 0.2.86 are not in the frozen metadata"),
    ],
    ids=["project", "requirements"],
)  # fmt: skip
def test_metadata_that_lacks_what_the_lock_needs_is_named(tmp_path, change, words):
    variant = next(variant for variant in VARIANTS if variant.data_only)  # the quickest
    environment = derive(read_environment(PROJECT / "environment.yml"), variant, PROJECT / variant.environment)
    folder = rewritten(tmp_path / "metadata", change)
    with pytest.raises(InputError, match=re.escape(words)) as error:
        lock_variant(environment, variant, Solver(folder), progress=Silent())
    assert "freeze again" in str(error.value.remedy)


@pytest.mark.e2e
def test_a_fresh_clone_repeats_its_locks_without_a_network_byte_for_byte(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--no-local", str(PROJECT), str(clone)], check=True)
    for path in [clone / "conda-lock.yml", *(clone / "locks").glob("[!mw]*"), *(clone / "environments").iterdir()]:
        path.unlink()  # nothing of the locks before may help
    git = ["git", "-C", str(clone), "status", "--porcelain"]
    assert subprocess.run(git, check=True, capture_output=True, text=True).stdout.count(" D ") > 10
    command = [sys.executable, "-m", "cogvideo_sat_env", "lock", "--frozen", str(clone / "metadata")]
    variables = {"SATENV_PROJECT": str(clone), "PYTHONPATH": str(clone / "src"), "HOME": str(tmp_path)}
    cut = ["unshare", "-rn", "sh", "-c", 'ip link set lo up 2>/dev/null || ifconfig lo up; exec "$@"', "sh"]
    if subprocess.run([*cut, "true"], capture_output=True, check=False).returncode != 0:
        cut = []  # no namespaces here: proxies that nobody answers must do
    dead = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "PIP_INDEX_URL"), "http://127.0.0.1:9/")
    run = subprocess.run(
        [*cut, *command], env={**os.environ, **variables, **dead, "NO_PROXY": "127.0.0.1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert subprocess.run(git, check=True, capture_output=True, text=True).stdout == ""


@pytest.mark.e2e
def test_the_committed_metadata_is_what_the_command_makes(tmp_path):
    freeze(PROJECT, tmp_path / "metadata", frozen=PROJECT / "metadata", progress=Silent())
    assert files(tmp_path / "metadata") == files(PROJECT / "metadata")

"""Freezing channel metadata: what a lock can be made from again, proven by its manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
import zstandard

from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.lock.freeze import freeze
from cogvideo_sat_env.lock.frozen import frozen_channels
from cogvideo_sat_env.lock.make import lock_variant
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
    monkeypatch.setattr("cogvideo_sat_env.lock.freeze.read_variants", lambda: primary)
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
         "format 9; expected 1"),
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


def conda_part(variant) -> tuple[list[dict], list[dict]]:
    """Return the conda packages as locked now, offline, and as they stand in the committed lock."""
    environment = derive(read_environment(PROJECT / "environment.yml"), variant, PROJECT / variant.environment)
    content, _ = lock_variant(
        replace(environment, pip=()), variant, frozen=PROJECT / "metadata", conda=None, update=(), previous=None,
        progress=Silent(),
    )  # fmt: skip
    committed = yaml.load((PROJECT / variant.lock).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return (
        [entry for entry in content["package"] if entry["manager"] == "conda"],
        [e for e in committed["package"] if e["manager"] == "conda" and e["platform"] == variant.platform],
    )


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=[] if v.id == "osx-arm64-data" else [pytest.mark.e2e], id=v.id) for v in VARIANTS],
)
def test_the_committed_locks_come_of_the_committed_metadata_without_a_network(variant, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    made, committed = conda_part(variant)
    assert made == committed


@pytest.mark.e2e
def test_the_committed_metadata_is_what_the_command_makes(tmp_path):
    freeze(PROJECT, tmp_path / "metadata", frozen=PROJECT / "metadata", progress=Silent())
    assert files(tmp_path / "metadata") == files(PROJECT / "metadata")

"""What is trusted was compared with the lock, by bytes that nobody else can write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cogvideo_sat_env.base import permissions
from cogvideo_sat_env.base.errors import PrefixError
from cogvideo_sat_env.base.permissions import TRUST, why_untrusted

from .conftest import Site
from .test_atomicity import complete
from .test_package_cache import extracted

pytestmark = pytest.mark.slow

PLAIN = "share/prefixed/plain.txt"


def forge(cache: Path, content: bytes) -> Path:
    """Swap a file of an extracted package together with everything beside it that tells how it should be."""
    import hashlib

    folder = extracted(cache, "prefixed")
    path = folder / PLAIN
    path.write_bytes(content)
    listing = json.loads((folder / "info/paths.json").read_text())
    for entry in listing["paths"]:
        if entry["_path"] == PLAIN:
            entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_in_bytes": len(content)}
    (folder / "info/paths.json").write_text(json.dumps(listing))
    manifest = cache / "pkgs" / f"{folder.name}.manifest.json"
    head, others, plain = (json.loads(line) for line in manifest.read_text().splitlines())
    for facts in (others, plain):
        for name, fact in facts.items():
            there = (folder / name).lstat()
            fact[:3] = [there.st_size, there.st_mtime_ns, there.st_ino]
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in (head, others, plain)))
    return path


@pytest.mark.fault(
    "cache-forged", "environment", "--verify full goes back to the archive, whatever lies beside the files"
)
@pytest.mark.parametrize("archive", ["kept", "gone"])
def test_full_verification_finds_a_package_that_was_swapped_with_its_manifest(site: Site, archive: str) -> None:
    site.install(site.home / "one")
    forge(site.cache, b"EVIL!\n")
    if archive == "gone":
        for path in (site.cache / "artefacts").rglob("prefixed-*"):
            path.unlink()
    site.install(site.home / "two", full=True)
    assert (site.home / "two" / PLAIN).read_text() == "plain\n" and complete(site.home / "two")
    site.install(site.home / "three")
    assert (site.home / "three" / PLAIN).read_text() == "plain\n"


def test_full_verification_keeps_what_is_right(site: Site) -> None:
    site.install(site.home / "one")
    before = {name: extracted(site.cache, name).stat().st_ino for name in ("prefixed", "data", "purepy")}
    site.install(site.home / "two", full=True)
    assert before == {name: extracted(site.cache, name).stat().st_ino for name in before}
    assert (site.home / "one" / PLAIN).stat().st_ino == (site.home / "two" / PLAIN).stat().st_ino


@pytest.mark.fault("cache-shared", "error", "names the folder and who can write to it, before anything is fetched")
@pytest.mark.parametrize("folder", ["cache", "cache/pkgs", "cache/bytecode", "."])
def test_a_cache_that_others_can_write_to_is_not_used(site: Site, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr(permissions, "_is_private_group", lambda gid, uid: False)
    site.install(site.home / "one")
    open_to_all = site.cache.parent / folder
    for mode, who in ((0o775, "the group"), (0o757, "everybody")):
        open_to_all.chmod(mode)
        with pytest.raises(PrefixError, match=f"{who}.* can write to it") as caught:
            site.install(site.home / "two")
        assert str(open_to_all.resolve()) in caught.value.message and TRUST in caught.value.remedy
        assert not (site.home / "two").exists() and site.leftovers() == []
    monkeypatch.setenv(TRUST, "1")
    assert site.install(site.home / "two").status == "created"


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's files need root")
@pytest.mark.fault("cache-foreign", "environment", "another user's files in the cache are extracted again")
def test_what_another_user_owns_in_the_cache_is_not_believed(site: Site) -> None:
    site.install(site.home / "one")
    folder = extracted(site.cache, "prefixed")
    manifest = site.cache / "pkgs" / f"{folder.name}.manifest.json"
    for path in (manifest, folder, folder / PLAIN):
        os.chown(path, 54321, 54321)
        site.install(site.home / f"two-{path.name}")
        assert (site.home / f"two-{path.name}" / PLAIN).stat().st_uid == 0
        assert extracted(site.cache, "prefixed").stat().st_uid == 0 and manifest.stat().st_uid == 0
    os.chown(site.cache, 54321, 54321)
    with pytest.raises(PrefixError, match=r"cache: belongs to uid 54321, not to you"):
        site.install(site.home / "three")


@pytest.mark.fault("cache-writable-file", "environment", "a file that others can write to is extracted again")
def test_a_file_that_others_can_write_to_is_extracted_again(site: Site) -> None:
    site.install(site.home / "one")
    (extracted(site.cache, "prefixed") / PLAIN).chmod(0o666)
    site.install(site.home / "two")
    assert (site.home / "two" / PLAIN).stat().st_mode & 0o777 == 0o644
    assert any(f"{PLAIN} of prefixed was changed" in line for line in site.progress.said)


@pytest.mark.fault("layer-shared", "environment", "of a layer that others can write to, downloads alone are used")
def test_a_layer_that_others_can_write_to_serves_downloads_only(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "_is_private_group", lambda gid, uid: False)
    layer = tmp_path / "layer"
    site.install(site.home / "other", cache=layer)
    site.server.heal()
    (layer / "pkgs").chmod(0o775)
    site.install(site.home / "env", layers=[layer])
    assert site.server.requests == [] and extracted(site.cache, "data").is_dir()
    (line,) = (line for line in site.progress.said if "SATENV_CACHE_LAYERS" in line)
    assert f"{layer}/pkgs: the group" in line and TRUST in line


def test_a_folder_with_the_sticky_bit_and_a_users_own_group_are_no_danger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "scratch" / "me" / "cache"
    cache.mkdir(parents=True)
    (tmp_path / "scratch").chmod(0o1777)
    assert why_untrusted(cache) is None
    (tmp_path / "scratch").chmod(0o777)
    assert "everybody can write to it (mode 0777)" in why_untrusted(cache)
    (tmp_path / "scratch").chmod(0o775)
    monkeypatch.setattr(permissions, "_is_private_group", lambda gid, uid: True)
    assert why_untrusted(cache) is None

"""The package cache: extracted once, every change noticed, layers of others used in place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base import cache_layers
from cogvideo_sat_env.base.errors import SatenvError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.install import package_cache

from .conftest import CHANNEL, Site
from .test_atomicity import complete


def extracted(cache: Path, name: str) -> Path:
    (folder,) = (path for path in (cache / "pkgs").glob(f"{name}-*") if path.is_dir())
    return folder


def test_the_second_time_nothing_is_extracted_or_hashed(site: Site) -> None:
    site.install(site.home / "one")
    site.progress.titles.clear()
    site.install(site.home / "two")
    assert site.progress.titles == ["Linking"]


def test_a_cache_that_has_another_name_elsewhere_is_the_same_cache(site: Site) -> None:
    """As a home that is mounted at one place here and at another one there, or bound into a container."""
    site.install(site.home / "one")
    other = site.home / "mount"
    site.cache.rename(other)
    site.cache.mkdir()
    before = {path: path.stat().st_ino for path in (other / "pkgs").iterdir()}
    site.progress.titles.clear()
    site.install(site.home / "two", cache=other)
    assert site.progress.titles == ["Linking"] and complete(site.home / "two")
    assert before == {path: path.stat().st_ino for path in (other / "pkgs").iterdir()}


def test_of_a_cache_that_was_copied_it_says_once_that_all_is_extracted_again(site: Site) -> None:
    site.install(site.home / "one")
    copy = site.home / "copy"
    shutil.copytree(site.cache, copy, symlinks=True)
    site.install(site.home / "two", cache=copy)
    (line,) = (line for line in site.progress.said if "extracted again" in line)
    assert "other packages were changed" in line and complete(site.home / "two")


@pytest.mark.fault("cache-tampered", "environment", "says which file was changed, and extracts the package again")
@pytest.mark.parametrize("file", ["share/prefixed/plain.txt", "info/paths.json", "bin/prefixed"])
def test_a_changed_file_is_noticed_and_extracted_again(site: Site, file: str) -> None:
    site.install(site.home / "one")
    changed = extracted(site.cache, "prefixed") / file
    content = changed.read_bytes()
    changed.unlink()
    changed.write_bytes(content[::-1])
    site.install(site.home / "two")
    assert any(f"{file} of prefixed was changed" in line for line in site.progress.said)
    assert (extracted(site.cache, "prefixed") / file).read_bytes() == content and complete(site.home / "two")


@pytest.mark.fault("cache-tampered", "environment", "a change that hides its time is found by --verify full")
def test_a_change_that_hides_is_found_when_everything_is_hashed(site: Site) -> None:
    site.install(site.home / "one")
    path = extracted(site.cache, "prefixed") / "share/prefixed/plain.txt"
    before = path.stat()
    with open(path, "r+b") as stream:
        stream.write(b"PLAIN")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    site.install(site.home / "two", full=True)
    assert (site.home / "two/share/prefixed/plain.txt").read_text() == "plain\n"


def test_what_a_killed_run_left_half_extracted_is_removed(site: Site) -> None:
    key = package_cache.key(site.artefact("prefixed"))
    half = site.cache / "pkgs" / f".{key}.partial"
    half.mkdir(parents=True)
    (half / "half").write_text("x")
    site.install(site.home / "env")
    assert not half.exists() and complete(site.home / "env")


@pytest.fixture
def layer(site: Site, tmp_path: Path) -> Path:
    """A cache of somebody else's, filled."""
    site.install(site.home / "other", cache=tmp_path / "layer")
    site.server.heal()
    site.progress.titles.clear()
    return tmp_path / "layer"


def frozen(folder: Path) -> dict[str, tuple]:
    return {str(p): (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ino) for p in folder.rglob("*") if (s := p.lstat())}


def test_a_layer_is_proven_once_and_used_in_place(site: Site, layer: Path) -> None:
    before = frozen(layer)
    site.install(site.home / "env", layers=[layer])
    assert complete(site.home / "env") and site.server.requests == []
    assert "Extracting" not in site.progress.titles
    assert not [path for path in (site.cache / "pkgs").iterdir() if path.is_dir()]
    same = (site.home / "env/share/data/a.txt").stat().st_ino
    assert same == (extracted(layer, "data") / "share/data/a.txt").stat().st_ino
    after = frozen(layer)
    assert after == before  # hard links change neither size nor time; nothing was written there


def test_a_layers_own_word_is_not_taken(site: Site, layer: Path) -> None:
    path = extracted(layer, "data") / "share/data/a.txt"
    before = path.stat()
    path.write_text("b\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as its own manifest says
    site.install(site.home / "env", layers=[layer])
    assert (site.home / "env/share/data/a.txt").read_text() == "a\n" and site.server.requests == []
    assert extracted(site.cache, "data").is_dir()


def test_a_layer_with_archives_only_saves_the_download(site: Site, layer: Path) -> None:
    shutil.rmtree(layer / "pkgs")
    damaged = next(layer.glob("artefacts/*/*/linked-*.conda"))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    site.install(site.home / "env", layers=[layer])
    assert complete(site.home / "env")
    assert [path.rpartition("/")[2] for path in site.server.fetched()] == [damaged.name]
    assert not list((site.cache / "artefacts").glob("*/*/data-*"))


def test_a_layer_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATENV_CACHE_LAYERS", f"{tmp_path}{os.pathsep}{tmp_path / 'gone'}")
    with pytest.raises(SatenvError, match=r"SATENV_CACHE_LAYERS: .*/gone: no such folder"):
        cache_layers.layers_from_environment()


SCRIPT = '#!/bin/sh\necho "$PREFIX" > "$PREFIX/share/ran"\necho "$PKG_NAME $PKG_VERSION" > "$PREFIX/.messages.txt"\n'


def with_scripts(site: Site, folder: Path, content: str = SCRIPT) -> dict[str, object]:
    """Options for an install with two packages that have link scripts."""
    made = []
    for name in ("scripted", "other"):
        script = packages.Text(content, executable=True)
        files = {
            f"bin/.{name}-post-link.sh": script,
            f"bin/.{name}-pre-unlink.sh": script,
            "share/x": packages.Text(""),
        }
        path = packages.make_package(packages.Spec(name, files=files), folder / "conda-forge", current_platform())
        made.append(packages.artefact(path, CHANNEL))
    return {
        "artefacts": [*site.artefacts, *made],
        "locate": lambda a: (folder / a.channel_path).as_uri() if a in made else site.locate(a),
    }


def test_only_the_link_scripts_that_are_allowed_run_and_the_others_are_listed(site: Site, tmp_path: Path) -> None:
    prefix = site.home / "env"
    result = site.install(prefix, **with_scripts(site, tmp_path), allow_link_scripts=["scripted"])
    assert result.link_scripts_run == ("scripted: bin/.scripted-post-link.sh",)
    assert set(result.link_scripts) == {
        "other: bin/.other-post-link.sh", "other: bin/.other-pre-unlink.sh", "scripted: bin/.scripted-pre-unlink.sh",
    }  # fmt: skip
    assert (prefix / "share/ran").read_text() == f"{prefix}\n"
    assert "scripted says: scripted 1.0" in site.progress.said
    assert not (prefix / ".messages.txt").exists()
    assert site.install(prefix, **with_scripts(site, tmp_path), allow_link_scripts=["all"]).status == "up-to-date"


def test_a_link_script_that_fails_leaves_what_was_there(site: Site, tmp_path: Path) -> None:
    prefix = site.home / "env"
    options = with_scripts(site, tmp_path, "#!/bin/sh\necho no luck >&2\nexit 3\n")
    with pytest.raises(SatenvError, match=r"post-link.sh: ended with 3: no luck"):
        site.install(prefix, **options, allow_link_scripts=["all"])
    assert not prefix.exists() and site.leftovers() == []
    site.install(prefix)
    before = frozen(prefix)
    with pytest.raises(SatenvError, match="ended with 3"):
        site.install(prefix, **options, allow_link_scripts=["all"], replace=True)
    assert frozen(prefix) == before and site.leftovers() == []


def test_a_run_that_was_killed_in_its_link_scripts_is_not_taken_for_whole(site: Site, tmp_path: Path) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    (prefix / "etc/cogvideo-sat-env/link-scripts-pending").touch()
    assert site.install(prefix).status == "created"
    assert complete(prefix) and site.leftovers() == []

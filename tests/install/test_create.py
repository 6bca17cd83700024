"""A prefix made from a channel: what is in it, and what a second run does."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.install import receipt

from .conftest import CHANNEL, Site

pytestmark = pytest.mark.filterwarnings("error")


def test_every_package_is_linked_with_its_real_channel(site: Site) -> None:
    prefix = site.home / "env"
    result = site.install(prefix)
    assert result.status == "created" and result.packages == len(site.artefacts)
    for artefact in site.artefacts:
        record = json.loads(
            (prefix / "conda-meta" / f"{artefact.name}-{artefact.version}-{artefact.build}.json").read_text()
        )
        assert record["url"] == artefact.url and record["channel"] == CHANNEL and record["fn"] == artefact.file_name
        assert record["sha256"] == artefact.sha256
        assert all((prefix / name).exists() for name in record["files"])
    assert "+" + CHANNEL in (prefix / "conda-meta" / "history").read_text()
    assert site.leftovers() == []


def test_an_epoch_in_the_version_survives_url_and_file_system(site: Site) -> None:
    site.install(site.home / "env")
    assert (site.home / "env" / "conda-meta" / "x264-1!164.3095-h166bdaf_2.json").is_file()


def test_prefix_placeholders_hold_the_final_path(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    assert subprocess.run([prefix / "bin" / "prefixed"], capture_output=True, text=True).stdout == f"{prefix}/share\n"
    binary = (prefix / "lib" / "libprefixed.so").read_bytes()
    assert f"{prefix}/share\0".encode() in binary and binary.endswith(b"tail" * 8)
    assert b"satenv-new" not in binary
    staged = [p for p in prefix.rglob("*") if p.is_file() and not p.is_symlink() and b".satenv-new-" in p.read_bytes()]
    assert staged == []


@pytest.mark.parametrize("name", ["with space", "ünïcode-环境", "quo'te"])
def test_scripts_run_from_prefixes_with_odd_names(site: Site, name: str) -> None:
    prefix = site.home / name
    site.install(prefix)
    for script, said in (("purepy", "purepy main\n"), ("purepy-script", "script\n")):
        child = subprocess.run([prefix / "bin" / script], capture_output=True, text=True)
        assert (child.stdout, child.stderr) == (said, "")


def test_symlinks_stay_symlinks(site: Site) -> None:
    site.install(site.home / "env")
    assert (site.home / "env" / "lib" / "liblinked.so").readlink() == Path("liblinked.so.1")


def test_noarch_python_gets_bytecode_that_is_loaded_under_the_final_path(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    compiled = list((packages.site_packages(prefix) / "purepy").glob("**/*.pyc"))
    assert len(compiled) == 2
    assert not any(str(prefix.parent).encode() in path.read_bytes() for path in compiled)  # shared by all prefixes
    record = json.loads((prefix / "conda-meta" / "purepy-2.0-pyhd8ed1ab_0.json").read_text())
    owned = {entry["_path"] for entry in record["paths_data"]["paths"] if entry["path_type"] == "pyc_file"}
    assert {str(path.relative_to(prefix)) for path in compiled} == owned
    code = "import sys, purepy; print(purepy.main.__code__.co_filename); sys.exit(0)"
    child = subprocess.run([prefix / "bin" / "python", "-v", "-c", code], capture_output=True, text=True)
    assert child.stdout == f"{packages.site_packages(prefix) / 'purepy' / '__init__.py'}\n"
    assert "matches" in child.stderr.partition("import 'purepy'")[0].splitlines()[-2]  # read, not compiled again


def test_requested_specs_are_recorded(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix, requested=["purepy >=1"])
    record = json.loads((prefix / "conda-meta" / "purepy-2.0-pyhd8ed1ab_0.json").read_text())
    assert record["requested_specs"] == ["purepy >=1"]


def test_a_second_run_fetches_and_links_nothing(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    before = {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")}
    site.server.heal()
    site.progress.titles.clear()
    assert site.install(prefix).status == "up-to-date"
    assert site.server.requests == [] and site.progress.titles == []
    assert {path: path.lstat().st_mtime_ns for path in prefix.rglob("*")} == before


def test_a_lost_record_or_file_is_not_up_to_date_and_replace_mends_it(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    (prefix / "conda-meta" / "linked-1.0-h0_0.json").unlink()
    with pytest.raises(PrefixError, match="missing or changed, e.g. conda-meta/linked"):
        site.install(prefix)
    assert site.install(prefix, replace=True).status == "replaced"
    assert (prefix / "conda-meta" / "linked-1.0-h0_0.json").is_file() and site.leftovers() == []


def test_another_lock_needs_replace(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix)
    fewer = [a for a in site.artefacts if a.name != "data"]
    with pytest.raises(PrefixError, match="holds another environment of this program"):
        site.install(prefix, artefacts=fewer)
    assert (prefix / "share" / "data" / "a.txt").is_file()
    assert site.install(prefix, artefacts=fewer, replace=True).status == "replaced"
    assert not (prefix / "share" / "data").exists() and site.leftovers() == []


def test_a_second_prefix_comes_from_the_cache(site: Site) -> None:
    site.install(site.home / "one")
    site.server.heal()
    assert site.install(site.home / "two").status == "created"
    assert site.server.requests == []


def test_a_mirror_folder_needs_no_server(site: Site, sample: Path) -> None:
    prefix = site.home / "env"
    result = site.install(prefix, locate=lambda a: (sample / a.channel_path).as_uri())
    assert result.status == "created" and site.server.requests == []


def test_the_receipt_tells_what_and_whence(site: Site) -> None:
    prefix = site.home / "env"
    site.install(prefix, facts={"variant": "cpu", "not_provided": ["nvcc"]})
    found = receipt.read(prefix)
    assert found["source"] == "mirror" and found["variant"] == "cpu" and found["not_provided"] == ["nvcc"]
    assert {p["url"] for p in found["packages"]} == {a.url for a in site.artefacts}
    assert found["files"]["bin/activate-cogvideo-sat"]["size"] > 0


def test_progress_counts_every_byte(site: Site) -> None:
    site.install(site.home / "env")
    title = next(title for title in site.progress.titles if title.startswith("Fetching"))
    assert site.progress.done[title] == sum(a.size for a in site.artefacts)
    assert site.progress.done["Linking"] == len(site.artefacts)


def test_an_empty_directory_may_be_there(site: Site) -> None:
    (site.home / "env").mkdir()
    assert site.install(site.home / "env").status == "created"


def test_foreign_directories_are_never_touched(site: Site) -> None:
    prefix = site.home / "env"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "thesis.tex").write_text("years of work")
    for options in ({}, {"replace": True}):
        with pytest.raises(PrefixError, match="left alone"):
            site.install(prefix, **options)
    assert sorted(p.name for p in prefix.iterdir()) == ["conda-meta", "thesis.tex"] and site.leftovers() == []
    assert site.server.requests == []


def test_a_file_or_link_is_no_prefix(site: Site) -> None:
    (site.home / "file").write_text("x")
    (site.home / "link").symlink_to("file")
    for name, said in (("file", "is a file"), ("link", "symbolic link")):
        with pytest.raises(PrefixError, match=said):
            site.install(site.home / name)


def test_a_lock_of_another_platform_is_refused(site: Site) -> None:
    with pytest.raises(InputError, match="the lock is for win-64"):
        site.install(site.home / "env", platform="win-64")
    assert not (site.home / "env").exists()


@pytest.mark.fault(
    "path-long", "error", "names the file whose place for the prefix is too short: conda packages leave 255 bytes"
)
def test_a_prefix_too_long_for_a_binary_placeholder_is_refused_before_linking(site: Site) -> None:
    prefix = site.home / ("l" * 200) / "env"
    with pytest.raises(PrefixError, match=r"lib/libprefixed.so of prefixed has room for"):
        site.install(prefix)
    assert site.leftovers() == [] and not (site.home / ("l" * 200) / "env").exists()
    assert "Linking" not in site.progress.titles


@pytest.mark.fault("lock-edited", "error", "names the file name that can't be one")
def test_an_edited_lock_can_not_lead_out_of_the_cache(site: Site) -> None:
    wrong = [replace(a, file_name="../../../x.conda") for a in site.artefacts[:1]]
    with pytest.raises(InputError, match="can't be a file of a lock"):
        site.install(site.home / "env", artefacts=wrong)


def _with_extra(site: Site, sample: Path, tmp_path: Path, *specs: packages.Spec) -> Path:
    root = tmp_path / "own"
    shutil.copytree(sample, root)
    for spec in specs:
        packages.make_package(spec, root / "conda-forge", current_platform())
    return root


def test_packages_that_ship_the_same_file_are_named(site: Site, sample: Path, tmp_path: Path) -> None:
    root = _with_extra(
        site, sample, tmp_path,
        packages.Spec("one", files={"lib/same.so": packages.Text("1"), "share/doc/same": packages.Text("1")}),
        packages.Spec("two", files={"lib/same.so": packages.Text("2"), "share/doc/same": packages.Text("2")}),
    )  # fmt: skip
    options = {
        "artefacts": packages.artefacts(root / "conda-forge", CHANNEL),
        "locate": lambda a: (root / a.channel_path).as_uri(),
    }
    result = site.install(site.home / "env", **options)
    assert list(result.collisions) == [
        "lib/same.so: both in one and in two",
        "share/doc/same: both in one and in two",
    ]
    assert not (site.home / "env" / "CACHEDIR.TAG").exists()


def test_link_scripts_are_listed_and_not_run(site: Site, sample: Path, tmp_path: Path) -> None:
    script = packages.Text('#!/bin/sh\ntouch "$PREFIX/ran"\n', executable=True)
    root = _with_extra(site, sample, tmp_path, packages.Spec("scripted", files={"bin/.scripted-post-link.sh": script}))
    result = site.install(
        site.home / "env",
        artefacts=packages.artefacts(root / "conda-forge", CHANNEL),
        locate=lambda a: (root / a.channel_path).as_uri(),
    )
    assert result.link_scripts == ("scripted: bin/.scripted-post-link.sh",)
    assert not (site.home / "env" / "ran").exists()

"""Archives that were made to do harm, though their hash is in the lock."""

from __future__ import annotations

import bz2
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.errors import PrefixError, VerificationError
from cogvideo_sat_env.install import archive, archive_size
from install.conftest import CHANNEL, Site

from .conftest import evil, listed, member

Install = Callable[..., Path]


def refused(site: Site, install_evil: Install, made: object, said: str) -> None:
    with pytest.raises(VerificationError, match=said):
        install_evil(made)
    assert not (site.home / "env").exists() and site.leftovers() == []
    assert not list((site.cache / "pkgs").glob("*evil*.manifest.json")) and not list(site.cache.rglob(".*.partial"))


@pytest.mark.fault("archive-dotdot", "environment", "the member is left out, and nothing is written outside")
@pytest.mark.fault("archive-absolute", "environment", "the member stays in the package, and nothing is written outside")
def test_a_member_that_leads_out_and_is_not_listed_does_nothing(
    site: Site, install_evil: Install, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    made = evil(
        tmp_path,
        [member("../../../escaped", b"x"), member("share/../../../../escaped", b"x"), member(str(outside), b"x"),
         member("share/good", b"good")],
        [listed("share/good", 4)],
    )  # fmt: skip
    prefix = install_evil(made)
    assert (prefix / "share/good").read_text() == "good" and site.leftovers() == []
    assert not list(tmp_path.rglob("escaped")) and not outside.exists()


@pytest.mark.fault("archive-dotdot", "error", "names the package and the path")
@pytest.mark.fault("archive-absolute", "error", "names the package and the path")
@pytest.mark.parametrize("path", ["../../../escaped", "share/../../escaped", "/etc/escaped"])
def test_a_listed_path_that_leads_out_is_refused(site: Site, install_evil: Install, tmp_path: Path, path: str) -> None:
    made = evil(tmp_path, [member(path, b"x")], [listed(path, 1)])
    refused(site, install_evil, made, "a path out of any prefix")


@pytest.mark.fault("archive-symlink", "error", "says that the archive leads out of its folder")
@pytest.mark.parametrize("target", ["../..", "/", "../../../.."])
def test_a_member_through_a_link_of_its_archive_is_refused(
    site: Site, install_evil: Install, tmp_path: Path, target: str
) -> None:
    made = evil(
        tmp_path,
        [member("share/door", kind=tarfile.SYMTYPE, target=target), member("share/door/through", b"x")],
        [listed("share/door/through", 1)],
    )
    refused(site, install_evil, made, "outside of destination path")
    assert not list(tmp_path.rglob("through")) and not Path("/through").exists()


@pytest.mark.fault(
    "archive-symlink", "error", "names the link, where it leads, and that another package writes through it"
)
def test_a_file_through_another_packages_link_is_refused(site: Site, install_evil: Install, tmp_path: Path) -> None:
    door = evil(
        tmp_path,
        [member("share/door", kind=tarfile.SYMTYPE, target=str(tmp_path))],
        [listed("share/door", kind="softlink")],
    )
    guest = evil(tmp_path, [member("share/door/through", b"x")], [listed("share/door/through", 1)], name="guest")
    with pytest.raises(VerificationError, match=r"share/door is a link to .*, out of the prefix"):
        install_evil(door, guest)
    assert not (site.home / "env").exists() and site.leftovers() == [] and not (tmp_path / "through").exists()


@pytest.mark.fault("archive-symlink", "error", "says that the hard link's source is outside")
def test_a_hard_link_out_of_the_archive_is_refused(site: Site, install_evil: Install, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    made = evil(
        tmp_path, [member("share/h", kind=tarfile.LNKTYPE, target="../" * 30 + str(secret)[1:])], [listed("share/h", 3)]
    )
    refused(site, install_evil, made, "escapes the destination")


@pytest.mark.fault("archive-duplicate", "error", "names the member, its size and the listed one")
def test_a_member_that_is_there_twice_with_another_size_is_refused(
    site: Site, install_evil: Install, tmp_path: Path
) -> None:
    made = evil(tmp_path, [member("lib/a", b"one"), member("lib/a", b"three")], [listed("lib/a", 3)])
    refused(site, install_evil, made, "'lib/a' is a file of 5 bytes, its own list says a file of 3 bytes")


@pytest.mark.fault("archive-duplicate", "error", "names the path that is listed twice")
def test_a_path_that_is_listed_twice_is_refused(site: Site, install_evil: Install, tmp_path: Path) -> None:
    made = evil(tmp_path, [member("lib/a", b"one")], [listed("lib/a", 3), listed("lib/a", 3)])
    refused(site, install_evil, made, "lists 'lib/a' twice")


@pytest.mark.fault("archive-duplicate", "error", "names the link that a later member has replaced")
def test_a_link_that_a_later_member_replaces_is_refused(site: Site, install_evil: Install, tmp_path: Path) -> None:
    made = evil(
        tmp_path,
        [member("lib/b", b"orig"), member("lib/a", kind=tarfile.SYMTYPE, target="b"), member("lib/a", b"over")],
        [listed("lib/b", 4), listed("lib/a", kind="softlink")],
    )
    refused(site, install_evil, made, "'lib/a' is a file of 4 bytes, its own list says a link")


CASES = [member("lib/Name", b"1"), member("lib/name", b"22")]


@pytest.mark.fault("archive-case", "environment", "both files, where the file system tells them apart")
def test_names_that_differ_in_case_are_both_there(install_evil: Install, tmp_path: Path) -> None:
    prefix = install_evil(evil(tmp_path, CASES, [listed("lib/Name", 1), listed("lib/name", 2)]))
    assert (prefix / "lib/Name").read_text() == "1" and (prefix / "lib/name").read_text() == "22"


@pytest.mark.fault("archive-case", "error", "names both, where the file system takes them for one")
def test_names_that_differ_in_case_are_refused_where_they_are_one(
    site: Site, install_evil: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "folds_case", lambda folder: True)  # such a file system can't be mounted everywhere
    made = evil(tmp_path, CASES, [listed("lib/Name", 1), listed("lib/name", 2)])
    with pytest.raises(PrefixError, match="takes lib/Name and lib/name .of evil. for the same file"):
        install_evil(made)
    assert not (site.home / "env").exists() and site.leftovers() == []


@pytest.mark.fault("archive-device", "environment", "no device is made: an empty file is in its place")
@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_device_is_ever_made(install_evil: Install, tmp_path: Path, kind: bytes) -> None:
    prefix = install_evil(evil(tmp_path, [member("share/null", kind=kind)], [listed("share/null")]))
    found = os.lstat(prefix / "share/null")
    assert stat.S_ISREG(found.st_mode) and found.st_size == 0


@pytest.mark.fault("archive-bomb", "error", "names the package, its size, what it unpacks to and what it says")
def test_an_archive_that_unpacks_to_more_than_it_says_is_refused(
    site: Site, install_evil: Install, tmp_path: Path
) -> None:
    made = evil(tmp_path, [member("share/bomb", bytes(200_000_000))], [listed("share/bomb", 1000)])
    refused(site, install_evil, made, r"that unpack to .* or more, but its own list says 1.0 kB")


@pytest.mark.slow
@pytest.mark.fault("archive-bomb", "error", "the same for the older kind of package")
def test_an_old_archive_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for info, content in (member("info/paths.json", b'{"paths": []}'), member("share/bomb", bytes(100_000_000))):
            out.addfile(info, io.BytesIO(content))
    path = tmp_path / "bomb-1-0.tar.bz2"
    path.write_bytes(bz2.compress(packed.getvalue(), 1))
    with pytest.raises(VerificationError, match="it would fill the disk"):
        archive_size.require_bounded(path)


def test_a_large_package_that_says_so_is_no_bomb(site: Site, install_evil: Install, tmp_path: Path) -> None:
    prefix = install_evil(
        evil(tmp_path, [member("share/zeros", bytes(100_000_000))], [listed("share/zeros", 100_000_000)])
    )
    assert (prefix / "share/zeros").stat().st_size == 100_000_000


def test_genuine_packages_are_bounded_closely(site: Site, sample: Path) -> None:
    for path in (sample / "conda-forge").glob("*/*.conda"):
        found = archive_size._unpacked(path, 1 << 40)
        assert 0 < found < 1_000_000, path
    assert packages.artefacts(sample / "conda-forge", CHANNEL)

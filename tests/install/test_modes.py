"""Modes: a prefix's own files follow the umask; files that it shares with the cache are 0644 or 0755, whatever it is."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import evil, listed, member

from .conftest import ROOT, Site

pytestmark = pytest.mark.slow

MODES = {"0666": 0o666, "0777": 0o777, "0000": 0o000, "setuid": 0o4755, "0664": 0o664, "0111": 0o111, "0600": 0o600}
STRANGER = 54321  # a user and group that nobody has


@pytest.fixture
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def public(sample: Path) -> Iterator[Path]:
    """A folder that every user can reach, as tmp_path isn't."""
    folder = Path(tempfile.mkdtemp(prefix="satenv-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def with_odd_modes(site: Site, folder: Path) -> dict[str, object]:
    """Options for an install with a package whose members have modes of all kinds, folders included."""
    members = []
    for name, mode in MODES.items():
        members.append(member(f"share/odd/{name}", name.encode()))
        members[-1][0].mode = mode
    made = evil(folder, members, [listed(f"share/odd/{name}", len(name)) for name in MODES], name="odd")
    return {
        "artefacts": [*site.artefacts, made],
        "locate": lambda a: (folder / a.subdir / a.file_name).as_uri() if a is made else site.locate(a),
    }


def wrong(root: Path, umask: int) -> list[str]:
    """Return what in a prefix has not the mode that it should have."""
    found = []
    for path in [root, *root.rglob("*")]:
        there = path.lstat()
        mode = stat.S_IMODE(there.st_mode)
        if stat.S_ISDIR(there.st_mode):
            right = mode == 0o777 & ~umask
        elif there.st_nlink > 1:
            right = mode in (0o644, 0o755)
        else:
            right = mode in (0o666 & ~umask, 0o777 & ~umask)
        if not right and not path.is_symlink():
            found.append(f"{mode:04o} {path.relative_to(root)}")
    return found


@pytest.mark.fault("umask", "environment", "every file has the umask's mode, or 0644 or 0755 where the cache shares it")
@pytest.mark.parametrize("first", [0o022, 0o077])
@pytest.mark.usefixtures("mask")
def test_modes_follow_the_umask_whatever_archives_and_earlier_runs_had(site: Site, tmp_path: Path, first: int) -> None:
    options = with_odd_modes(site, tmp_path)
    for number, umask in enumerate((first, 0o002, 0o027, 0o077)):
        os.umask(umask)
        prefix = site.home / f"env{number}"
        site.install(prefix, **options)
        assert wrong(prefix, umask) == []
        assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in (prefix / "share/odd").iterdir()} == {
            name: 0o755 if mode & 0o100 else 0o644 for name, mode in MODES.items()
        }
        assert not [p for p in site.cache.rglob("*") if not p.is_symlink() and p.lstat().st_mode & 0o022]


def as_stranger(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command as another user, in no group of this one's."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("another user needs root and setpriv")
    return subprocess.run(
        ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *command],
        capture_output=True, text=True, check=False, cwd="/", **options,
    )  # fmt: skip


@pytest.mark.fault(
    "shared-prefix", "environment", "another user reads, activates and runs it; its folders keep the group"
)
@pytest.mark.usefixtures("mask")
def test_another_user_can_use_a_prefix_in_a_groups_folder(site: Site, public: Path, tmp_path: Path) -> None:
    os.umask(0o077)
    site.install(site.home / "private", **with_odd_modes(site, tmp_path))  # the cache is made by this one
    shared = public / "shared"
    shared.mkdir()
    if os.geteuid() == 0:
        os.chown(shared, 0, STRANGER + 1)
    shared.chmod(0o2775)
    os.umask(0o002)
    prefix = shared / "sat"
    site.install(prefix, **with_odd_modes(site, tmp_path))
    for folder in (p for p in [prefix, *prefix.rglob("*")] if p.is_dir() and not p.is_symlink()):
        assert folder.stat().st_gid == shared.stat().st_gid and folder.stat().st_mode & 0o2775 == 0o2775, folder
    unreadable = as_stranger(["find", str(prefix), "!", "-type", "l", "!", "-readable", "-print"])
    assert (unreadable.stdout, unreadable.stderr, unreadable.returncode) == ("", "", 0)
    script = f'. "{prefix}/bin/activate-cogvideo-sat" && echo "$CONDA_PREFIX" && prefixed'
    done = as_stranger(["sh", "-c", script], env={"PATH": os.environ["PATH"]})
    assert (done.stdout, done.stderr) == (f"{prefix}\n{prefix}/share\n", "")


CREATE = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from cogvideo_sat_env.base.progress import Silent
import packages
from install.conftest import CHANNEL, From, make_job
from cogvideo_sat_env.install.transaction import install_prefix
folder = Path(sys.argv[3])
given = {"artefacts": [packages.artefact(p, CHANNEL) for p in folder.glob("channel/*/*-1-0.*")], "facts": {"variant": "cpu"}}
source = From(lambda a: (folder / "channel" / a.subdir / a.file_name).as_uri())
print(install_prefix(make_job(folder / "mine/env", folder / "mine/cache", Silent(), source, given)).status)
"""


@pytest.mark.fault("archive-modes", "environment", "folders get the umask's modes, whoever extracts")
@pytest.mark.parametrize("ending", [".conda", ".tar.bz2"])
def test_folder_members_that_keep_their_owner_out_are_extracted_by_a_user_who_is_not_root(
    tmp_path: Path, ending: str
) -> None:
    """A root without capabilities obeys modes as every other user does, and can reach this Python."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("giving up capabilities needs root and setpriv")
    names = {"closed": 0o000, "closed/in": 0o555, "read-only": 0o555, "unsearchable": 0o600}
    members = []
    for name, mode in names.items():
        members.append(member(f"share/{name}", kind=tarfile.DIRTYPE))
        members[-1][0].mode = mode
        members.append(member(f"share/{name}/file", name.encode()))
        members[-1][0].mode = 0o444
    entries = [listed(f"share/{name}/file", len(name)) for name in names]
    evil(tmp_path / "channel", members, entries, name="odd", ending=ending)
    folders = [str(ROOT / "src"), str(ROOT / "tests"), str(tmp_path)]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", CREATE, *folders],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("created\n", "", 0)
    found = {name: (tmp_path / f"mine/env/share/{name}/file").read_text() for name in names}
    assert found == {name: name for name in names} and not list((tmp_path / "mine/cache/pkgs").glob(".*"))
    assert wrong(tmp_path / "mine/env", 0o022) == []


@pytest.mark.usefixtures("mask")
def test_a_copied_prefix_follows_the_umask_too(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    site.install(site.home / "first", **with_odd_modes(site, tmp_path))
    monkeypatch.setattr(os, "link", refuse)
    os.umask(0o007)
    site.install(site.home / "env", artefacts=site.artefacts[:1])
    assert wrong(site.home / "env", 0o007) == []


@pytest.mark.usefixtures("mask")
def test_repeated_creates_take_no_package_for_changed(site: Site, tmp_path: Path) -> None:
    """Whatever a create does with the package cache, the next one finds it as recorded: also with other umasks."""
    options = with_odd_modes(site, tmp_path)
    site.install(site.home / "first", **options)
    inodes = {p: p.lstat().st_ino for p in (site.cache / "pkgs").rglob("*") if not p.is_dir()}
    site.progress.titles.clear()
    for number, (umask, given) in enumerate([(0o077, {}), (0o002, {"repair": True}), (0o022, {"replace": True})]):
        os.umask(umask)
        site.install(site.home / ("first" if given else f"env{number}"), **options, **given)
    assert "Extracting" not in site.progress.titles and not [t for t in site.progress.said if "was changed" in t]
    now = {p: p.lstat().st_ino for p in (site.cache / "pkgs").rglob("*") if not p.is_dir()}
    assert now == inodes
    site.install(site.home / "full", **options, full=True)  # compared byte by byte, and found the same
    assert {p: i for p, i in inodes.items() if not p.name.endswith(".json") and p.lstat().st_ino != i} == {}

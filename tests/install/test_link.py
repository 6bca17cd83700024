"""Plain files that are hard-linked apart make the same prefix as rattler makes of everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import packages
from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import SatenvError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.install import workers
from cogvideo_sat_env.install.package_manifest import is_plain

from .conftest import CHANNEL, Site
from .test_atomicity import complete

PY = f"lib/python{packages.host_python_spec()[1]}/site-packages"
ODD = (
    packages.Spec("one", files={
        "lib/same.txt": packages.Text("1"),
        "opt/real/a": packages.Text("a"), "opt/link": packages.Link("real"), "bin/tool": packages.Text("plain"),
        ".hidden": packages.Text("h"), "share/a b/ü.txt": packages.Text("u"),
        f"{PY}/clash.py": packages.Text("X = 'one'\n"),
    }),
    packages.Spec("two", files={
        "lib/same.txt": packages.Text("2"), "opt/real/b": packages.Text("b"),
    }),
    packages.Spec("three", build="pyhd8ed1ab_0", noarch="python", entry_points=["tool = three:main"], files={
        "site-packages/three.py": packages.Text("def main():\n    print('three')\n"),
        "site-packages/clash.py": packages.Text("X = 'three'\n"),
        "python-scripts/helper.py": packages.Text("#!/bin/sh\n"), "share/three.py": packages.Text("Y = 1\n"),
        "site-packages/shipped.py": packages.Text("Z = 1\n"),
        f"site-packages/__pycache__/shipped.{sys.implementation.cache_tag}.pyc": packages.Binary(b"its own"),
    }),
    packages.Spec("empty"),
)  # fmt: skip


@pytest.fixture(scope="module")
def odd(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample channel with packages that get into each other's way."""
    root = tmp_path_factory.mktemp("odd") / "mirror"
    shutil.copytree(sample, root)
    for spec in ODD:
        packages.make_package(spec, root / "conda-forge", current_platform())
    return root


def options(channel: Path) -> dict[str, Any]:
    artefacts = packages.artefacts(channel / "conda-forge", CHANNEL)
    return {"artefacts": artefacts, "locate": lambda a: (channel / a.channel_path).as_uri()}


def tree(prefix: Path) -> dict[str, tuple[str, object]]:
    """Return kind and content of everything in a prefix but its records; its own path is written as PREFIX."""
    found: dict[str, tuple[str, object]] = {}
    for path in sorted(prefix.rglob("*")):
        name, mode = str(path.relative_to(prefix)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(mode):
            found[name] = ("folder", None)
        elif not name.startswith(("conda-meta/", "etc/cogvideo-sat-env/")):
            content = path.read_bytes().replace(os.fsencode(prefix), b"PREFIX")
            if name.endswith(".pyc"):
                content = content[:8] + content[16:]  # without time and size of the source: copies have other times
            found[name] = (oct(stat.S_IMODE(mode)), content)
    return found


def records(prefix: Path) -> dict[str, dict]:
    """Return the conda-meta records; what is listed is sorted, and the prefix written as PREFIX."""
    found = {}
    for path in (prefix / "conda-meta").glob("*.json"):
        record = json.loads(path.read_text().replace(str(prefix), "PREFIX"))
        record["files"].sort()
        record["paths_data"]["paths"].sort(key=lambda entry: entry["_path"])
        for entry in record["paths_data"]["paths"]:
            if entry.get("prefix_placeholder"):
                entry.pop("sha256_in_prefix")
            if entry["path_type"] == "unix_python_entry_point":
                entry.pop("sha256")  # its first line is the prefix
        found[path.name] = record
    return found


@pytest.mark.parametrize("few", [0, 24], ids=["processes", "in-process"])
def test_the_prefix_is_the_one_that_rattler_makes_of_everything(
    site: Site, odd: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(workers, "FEW", few)
    apart = site.install(site.home / "one", **options(odd))
    with monkeypatch.context() as patched:
        patched.setattr(diskspace, "same_file_system", lambda one, other: False)
        whole = site.install(site.home / "two", **options(odd))
    assert tree(site.home / "one") == tree(site.home / "two")
    assert records(site.home / "one") == records(site.home / "two")
    assert apart.collisions == whole.collisions
    assert set(apart.collisions) == {
        "lib/same.txt: both in one and in two",
        "site-packages/clash.py: both in one and in three",
        "bin/tool: both in one and in three",
    }
    assert complete(site.home / "one") and apart.files == whole.files
    listed = records(site.home / "one")["linked-1.0-h0_0.json"]
    assert listed["files"] == ["lib/liblinked.so", "lib/liblinked.so.1", "share/linked/dir/file"]


@pytest.mark.fault("entry-point-clash", "environment", "the script is made, the other file is left out and named")
def test_an_entry_point_is_not_written_through_a_link_into_the_cache(site: Site, odd: Path) -> None:
    site.install(site.home / "one", **options(odd))
    (cached,) = site.cache.glob("pkgs/one-*/bin/tool")
    assert cached.read_text() == "plain"
    said = subprocess.run([site.home / "one/bin/tool"], capture_output=True, text=True, check=True).stdout
    assert said == "three\n"
    assert "bin/tool" not in records(site.home / "one")["one-1.0-h0_0.json"]["files"]
    assert "bin/tool" in records(site.home / "one")["three-1.0-pyhd8ed1ab_0.json"]["files"]


def test_a_file_in_place_of_a_folder_is_told(site: Site, tmp_path: Path) -> None:
    for name, path in (("one", "share/one"), ("two", "share/one/below")):
        spec = packages.Spec(name, files={path: packages.Text(name)})
        packages.make_package(spec, tmp_path / "own/conda-forge", current_platform())
    result = site.install(site.home / "env", **options(tmp_path / "own"))
    assert result.collisions == (
        "share/one/below: in two; another package has a file or a link in place of its folder",
    )


def test_one_inode_in_cache_and_prefix_and_the_same_prefix_twice(site: Site, odd: Path) -> None:
    site.install(site.home / "env", **options(odd))
    (cached,) = site.cache.glob("pkgs/linked-*/share/linked/dir/file")
    assert cached.stat().st_nlink == 2
    first, said = tree(site.home / "env"), texts(site.home / "env")
    shutil.rmtree(site.home / "env")
    site.install(site.home / "env", **options(odd))
    assert tree(site.home / "env") == first and texts(site.home / "env") == said


def texts(prefix: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (prefix / "conda-meta").iterdir()}


@pytest.mark.fault("cache-tampered", "environment", "the package is extracted again")
@pytest.mark.parametrize("few", [0, 24], ids=["processes", "in-process"])
def test_a_package_that_is_changed_while_it_is_linked_is_extracted_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(workers, "FEW", few)
    site.install(site.home / "one")
    (cached,) = site.cache.glob("pkgs/linked-*/share/linked/dir/file")
    cached.unlink()
    cached.write_text("y")
    site.install(site.home / "two")
    assert (site.home / "two/share/linked/dir/file").read_text() == "x" and site.leftovers() == []
    assert "cache: share/linked/dir/file of linked was changed; it is extracted again" in site.progress.said


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("damage", ["", "[]", '{"share/data/a.txt": 7}', "{", "\x00"])
def test_a_damaged_proof_is_made_again(site: Site, line: int, damage: str) -> None:
    site.install(site.home / "one", artefacts=[site.artefact("data")])
    (manifest,) = site.cache.glob("pkgs/data-*.manifest.json")
    lines = manifest.read_text().split("\n")
    lines[line] = damage
    manifest.write_text("\n".join(lines))
    site.install(site.home / "two", artefacts=[site.artefact("data")])
    assert (site.home / "two/share/data/a.txt").read_text() == "a\n" and site.leftovers() == []
    assert manifest.read_text().split("\n")[line] != damage


def test_a_cache_that_changes_all_the_time_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch_all(task: str, jobs: list) -> workers.Work:
        for path in site.cache.glob("pkgs/linked-*/share/linked/dir/file"):
            path.unlink()
            path.write_text("y")
        return real(workers.WorkerPool(), task, jobs)

    real = workers.WorkerPool.start
    monkeypatch.setattr(workers.WorkerPool, "start", lambda self, task, jobs: touch_all(task, jobs))
    with pytest.raises(VerificationError, match="extracted packages changed 3 times while they were linked"):
        site.install(site.home / "env")
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_a_process_that_is_killed_is_told_and_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FEW", 0)
    real = workers.WorkerPool._share

    def share_and_kill(self: workers.WorkerPool, manifests: set[str]) -> None:
        real(self, manifests)
        self._children[0].kill()
        self._children[0].wait()

    monkeypatch.setattr(workers.WorkerPool, "_share", share_and_kill)
    with pytest.raises(SatenvError, match=f"the process ended with -{signal.SIGKILL.value}"):
        site.install(site.home / "env")
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_the_processes_end_with_their_parent() -> None:
    worker = Path(workers.__file__).with_name("worker_main.py")
    child = subprocess.Popen([sys.executable, "-I", "-S", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b'{"task": "verify", "jobs": [{"manifest_path": "/nowhere", "folder": "/nowhere"}]}\n')
    child.stdin.flush()
    assert json.loads(child.stdout.readline()) == {"results": ["nowhere"]}
    child.stdin.close()
    assert child.wait(timeout=20) == 0
    child.stdout.close()


def test_where_links_are_refused_the_files_are_copied(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # fs.protected_hardlinks, with another user's cache

    site.install(site.home / "one")
    monkeypatch.setattr(os, "link", refuse)
    site.install(site.home / "two")
    monkeypatch.undo()
    assert tree(site.home / "two") == tree(site.home / "one") and complete(site.home / "two")
    assert (site.home / "two/share/linked/dir/file").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("entry", "plain"),
    [
        ({}, True),
        ({"_path": "share/..b/x"}, True),
        ({"prefix_placeholder": "/opt/x", "file_mode": "text"}, False),
        ({"no_link": True}, False),
        ({"path_type": "softlink"}, False),
        ({"sha256": None}, False),
        ({"size_in_bytes": None}, False),
        ({"_path": "a//b"}, False),
        ({"_path": "./a"}, False),
        ({"_path": "a/./b"}, False),
        ({"_path": "info/x"}, False),
        ({"_path": "conda-meta/x.json"}, False),
        ({"_path": "a\\b"}, False),
    ],
)
def test_what_is_plain(entry: dict[str, object], plain: bool) -> None:
    usual = {"_path": "share/a", "path_type": "hardlink", "sha256": "0" * 64, "size_in_bytes": 1}
    if entry.get("_path") == "share/..b/x":
        plain = False  # hidden names are left to rattler, this one with them
    assert is_plain({**usual, **entry}) is plain

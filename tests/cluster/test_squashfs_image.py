"""One file that holds an environment: made for a path, the same bytes each time, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cogvideo_sat_env.base.errors import InputError, MissingToolError, SatenvError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.base.scratch import sweep
from cogvideo_sat_env.cluster.image_facts import facts_path, read_facts
from cogvideo_sat_env.cluster.squashfs_image import make_image
from cogvideo_sat_env.cluster.tree import made_for
from cogvideo_sat_env.create.cache_prune import prune_cache
from cogvideo_sat_env.create.create import CreateRequest

pytestmark = pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs mksquashfs (squashfs-tools)")


@pytest.fixture
def make(site, monkeypatch) -> Any:
    """What a deploy hands over: it makes the environment of a CreateRequest."""
    monkeypatch.setenv("SATENV_CACHE", str(site.cache))
    return lambda request: site.install(request.prefix, seen_at=request.options.seen_at)


def image_of(make: Any, site: Any, name: str = "r1", folder: str = "releases") -> Path:
    path = site.home / folder / f"{name}.sqfs"
    make_image(make, CreateRequest(), path, site.home / "node", None, Silent())
    return path


def test_an_image_works_at_the_path_that_it_is_made_for(site, make):
    image = image_of(make, site)
    facts = read_facts(image)
    seen_at = site.home / "node" / "r1"
    assert facts.prefix == str(seen_at) and facts.size == image.stat().st_size and not seen_at.exists()
    seen_at.parent.mkdir()
    subprocess.run(["unsquashfs", "-q", "-n", "-d", seen_at, image], check=True, capture_output=True)
    assert str(seen_at) in (seen_at / "bin" / "prefixed").read_text()
    assert str(seen_at).encode() in (seen_at / "lib" / "libprefixed.so").read_bytes()
    assert json.loads((seen_at / "etc/cogvideo-sat-env/receipt.json").read_text())["prefix"] == str(seen_at)
    ran = subprocess.run([seen_at / "bin" / "purepy"], capture_output=True, text=True, check=True)
    assert ran.stdout == "purepy main\n"
    active = (
        f'set -e; . "{seen_at}/bin/activate-cogvideo-sat"; command -v python; python -c "import sys; print(sys.prefix)"'
    )
    shown = subprocess.run(["sh", "-c", active], capture_output=True, text=True, check=True).stdout.split()
    assert shown == [f"{seen_at}/bin/python", str(seen_at)]
    everything = "".join(path.read_text() for path in (seen_at / "conda-meta").iterdir())
    assert str(site.cache) not in everything, "nothing names the machine that made it"


def test_what_other_runs_clean_up_is_never_the_environment_that_is_being_packed(site, make):
    left = site.cache / "tmp" / "tree-of-a-killed-run"
    left.mkdir(parents=True)
    with made_for(site.home / "node" / "r1", make, CreateRequest(), Silent()) as place:
        assert not left.exists()
        before = sorted(place.rglob("*"))
        left.mkdir()
        sweep(site.cache / "tmp")  # as a run does that converts wheels
        prune_cache(site.cache, older_than=0)
        assert sorted(place.rglob("*")) == before and not left.exists()
    assert not list((site.cache / "tmp").iterdir())


def test_the_same_lock_gives_the_same_bytes_whatever_the_umask(site, make):
    first = image_of(make, site)
    before = os.umask(0o077)
    try:
        second = image_of(make, site, folder="again")
    finally:
        os.umask(before)
    assert (
        first.read_bytes() == second.read_bytes() and facts_path(first).read_bytes() == facts_path(second).read_bytes()
    )
    listed = subprocess.run(["unsquashfs", "-lln", first], capture_output=True, text=True, check=True).stdout
    assert not [
        line
        for line in listed.splitlines()
        if line.startswith("-") and not line.startswith(("-rwxr-xr-x", "-rw-r--r--"))
    ]
    assert " 0/0 " in listed


def test_bytecode_is_still_that_of_its_source(site, make):
    image = image_of(make, site)
    out = site.home / "out"
    subprocess.run(["unsquashfs", "-q", "-n", "-d", out, image], check=True, capture_output=True)
    code = "import purepy.deep, sys; print(purepy.__cached__, purepy.deep.__cached__)"
    ran = subprocess.run(
        [out / "bin/python", "-v", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.stderr.count("code object from") and "bytecode is stale" not in ran.stderr
    assert "matches" in ran.stderr


def test_what_is_there_is_left_and_what_differs_is_made_again(site, make):
    image = image_of(make, site)
    before = image.stat().st_ino
    image_of(make, site)
    assert image.stat().st_ino == before
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"x")
    image_of(make, site)
    assert image.read_bytes() == content and image.stat().st_ino != before


def test_nothing_is_left_where_it_cannot_be_made(site, make, monkeypatch, tmp_path):
    def refuse(request: CreateRequest) -> None:
        raise SatenvError("no")

    for image, at, making, kind in (
        (site.home / "r1.img", site.home, make, InputError),
        (site.home / "r1.sqfs", Path("node"), make, InputError),
        (site.home / "r1.sqfs", site.home / "node" / "..", make, InputError),
        (site.home / "r1.sqfs", site.home / "node", refuse, SatenvError),
    ):
        with pytest.raises(kind):
            make_image(making, CreateRequest(), image, at, None, Silent())
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "mksquashfs").write_text(
        "#!/bin/sh\necho half > \"$2\"\necho 'Write failed because No space left on device' >&2\nexit 1\n"
    )
    (fake / "mksquashfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    with pytest.raises(SatenvError, match="no space left"):
        image_of(make, site)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match="mksquashfs"):
        image_of(make, site)
    assert not [*site.home.glob("*.sqfs*"), *site.home.glob("releases/*"), *site.home.glob("releases/.*")]
    assert not list((site.cache / "tmp").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"size": "3"},
        {"size": 0},
        {"sha256": "no"},
        {"prefix": "relative"},
        {"prefix": "/"},
        {"prefix": "/a/../b"},
        {"schema": 9},
    ],
)
def test_facts_that_cannot_be_are_refused(tmp_path, change):
    good = {
        "schema": 1,
        "size": 5,
        "sha256": "0" * 64,
        "prefix": "/tmp/x/y",
        "release": "",
        "unpacked": 1,
        "files": 1,
        "fingerprint": "",
        "platform": "",
    }
    path = tmp_path / "r.sqfs"
    facts_path(path).write_text(json.dumps(good))
    assert read_facts(path).size == 5
    for text in (json.dumps(good | change), "", "[]", "{"):
        facts_path(path).write_text(text)
        with pytest.raises(InputError, match=r"r\.sqfs\.json"):
            read_facts(path)


@pytest.mark.slow
def test_a_deploy_with_image_has_it_before_the_release_is_current_and_prune_takes_both(apps):
    node = apps.path.parent / "node"
    done = apps.deploy("x264", image_at=node)
    root, image = apps.root, apps.root.image(done.name)
    assert done.image and done.image == read_facts(image) and done.image.prefix == str(node / done.name)
    assert done.image.release == str(root.prefix(done.name)) and done.current
    assert f'. "$({apps.path}/stage)"' in done.to_text() and done.to_json()["image"]["size"] == image.stat().st_size
    inode = image.stat().st_ino
    again = apps.deploy("x264", image_at=node)
    assert (again.made, image.stat().st_ino) == ("up-to-date", inode)
    ran = subprocess.run([apps.path / "stage", "--how", "copy", "--json"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and json.loads(ran.stdout)["prefix"] == done.image.prefix, ran.stderr
    made = json.loads((node / done.name / "etc/cogvideo-sat-env/receipt.json").read_text())
    assert made["fingerprint"] == done.image.fingerprint
    apps.failing = ["imports.torch"]
    refused = apps.deploy(image_at=node)
    assert refused.image is None and not list(image.parent.glob(f"{refused.name}*")), "not of what the doctor refuses"
    apps.failing = []
    apps.deploy(image_at=node)
    apps.deploy("data")  # a rollback doesn't lead to the first one any more
    ran = apps.satenv("releases", str(apps.path), "prune", done.name)
    assert ran.returncode == 0 and not list(image.parent.glob(f"{done.name}*")), ran.stderr


def test_a_deploy_without_mksquashfs_says_so_before_the_work(apps, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    with pytest.raises(MissingToolError, match="mksquashfs"):
        apps.deploy(image_at=apps.path.parent / "node")
    assert not apps.path.exists() or not list(apps.path.iterdir())

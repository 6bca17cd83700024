"""`satenv deploy`: a release is whole and proven before anybody is led to it, and never changes afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cluster.admin import Site
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster import releases
from cogvideo_sat_env.install import receipt

pytestmark = pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64")
TESTS = Path(__file__).parents[1]


def current(apps: Site) -> str | None:
    return apps.root.current_name()


def whole(apps: Site, name: str) -> bool:
    found = receipt.read(apps.root.prefix(name))
    return found is not None and not receipt.missing(apps.root.prefix(name), found)


def test_a_release_is_named_by_day_and_lock_recorded_frozen_and_current(apps: Site) -> None:
    done = apps.deploy()
    record = done.record
    assert done.exit_code == 0 and done.made == "created" and done.current and done.previous is None
    assert done.name == f"{record['created'][:10]}-{record['lock_sha256'][:12]}"
    assert os.readlink(apps.root.current) == f"releases/{done.name}"
    assert record["packages"] == 5 and record["files"] > 5 and record["source"] == "channel" and not record["pinned"]
    assert record["doctor"]["ok"] and record["doctor"]["counts"]["passed"] == 1
    frozen = json.loads((apps.root.current / "conda-meta" / "frozen").read_text())  # CEP 22
    assert set(frozen) == {"message"} and "an administrator deploys the next one" in frozen["message"]
    assert json.loads((apps.root.releases / f"{done.name}.json").read_text()) == record
    text = done.to_text()
    assert f"module use {apps.path}/modules; module load cogvideo-sat" in text and f". {apps.path}/load.sh" in text
    assert json.loads(json.dumps(done.to_json()))["release"] == done.name


def test_the_same_again_is_no_new_release_and_isnt_proven_twice(apps: Site) -> None:
    first = apps.deploy()
    again = apps.deploy()
    assert (again.name, again.made, again.record) == (first.name, "up-to-date", first.record)
    assert len(apps.proven) == 1 and apps.root.names() == [first.name]
    older = f"2020-01-01-{first.name[11:]}"  # another day makes no other release of the same lock
    (apps.root.prefix(first.name)).rename(apps.root.prefix(older))
    assert apps.deploy().name != older  # but one that was moved isn't whole


def test_readers_see_nothing_before_the_doctor_has_passed(apps: Site) -> None:
    old = apps.deploy("data").name
    apps.failing = ["imports.together"]
    failed = apps.deploy()
    assert failed.exit_code == 1 and not failed.current and current(apps) == old
    assert "imports.together; it is not current" in failed.to_text()
    with pytest.raises(InputError, match=r"the doctor hasn't passed in it \(imports.together\)"):
        releases.activate(apps.path, failed.name, Silent())
    apps.failing = []
    fixed = apps.deploy()  # e.g. the driver's fault: the same release, proven again
    assert fixed.name == failed.name and fixed.current and fixed.previous == old and len(apps.proven) == 3


def test_no_activate_makes_and_proves_it_only(apps: Site) -> None:
    done = apps.deploy(activate=False)
    assert done.exit_code == 0 and current(apps) is None and "Not current yet" in done.to_text()
    releases.activate(apps.path, done.name, Silent())
    assert current(apps) == done.name


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs mksquashfs (squashfs-tools)")
def test_an_image_can_take_the_place_of_the_folder(apps: Site, tmp_path: Path) -> None:
    old = apps.deploy("data").name
    given = {"image_at": tmp_path / "node", "image_only": True}
    done = apps.deploy(**given)
    assert done.exit_code == 0 and done.current and not apps.root.prefix(done.name).exists()
    assert "In a job, from the image" in done.to_text() and "load.sh" not in done.to_text()
    shown = subprocess.run(["unsquashfs", "-cat", apps.root.image(done.name), "conda-meta/frozen"],
                           capture_output=True, check=True)  # fmt: skip
    assert b"never changed" in shown.stdout  # an unpacked copy isn't conda's to change, either
    again = apps.deploy(**given)
    assert (again.name, again.made, again.image) == (done.name, "up-to-date", done.image) and len(apps.proven) == 2
    for lines in (f". {apps.path}/load.sh", f"SATENV_RELEASE={done.name}; . {apps.path}/load.sh"):
        run = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=False)
        assert run.returncode and f'is an image; have it on the node, in a job:  . "$({apps.path}/stage)"' in run.stderr
    assert releases.list_releases(apps.path).releases[-1]["state"] == "current, image only"
    assert releases.rollback(apps.path, Silent()).facts["current"] == old
    assert releases.rollback(apps.path, Silent()).facts["current"] == done.name
    releases.activate(apps.path, old, Silent())
    stays = apps.deploy("data", **given)  # jobs may use what was current as a folder
    assert "stays, since it was current" in stays.notes[0] and whole(apps, old)
    (apps.path / "history.json").unlink()
    assert releases.prune(apps.path, Silent(), keep=0).facts["deleted"] == [done.name]
    assert not [path for path in apps.path.rglob("*") if done.name in path.name]


def test_a_release_is_never_changed_by_create_or_update(apps: Site) -> None:
    name = apps.deploy("data").name
    apps.lock()
    for command in ("create --replace --variant cpu --source channel", "update"):
        run = apps.satenv(*command.split(), "--no-doctor", "-p", str(apps.root.prefix(name)))
        assert run.returncode == 6 and "is marked as frozen" in run.stderr and "deploy" in run.stderr, run.stderr
    assert whole(apps, name)


def test_a_damaged_release_is_not_used_again_and_cannot_become_current(apps: Site) -> None:
    old = apps.deploy("data").name
    name = apps.deploy().name
    releases.rollback(apps.path, Silent())
    (apps.root.prefix(name) / "share/data/a.txt").unlink()
    next((apps.root.prefix(name) / "conda-meta").glob("x264-*.json")).unlink()  # as a purge of old files does
    with pytest.raises(InputError, match=r"half a release: 1 of its files are missing"):
        releases.activate(apps.path, name, Silent())
    assert current(apps) == old
    again = apps.deploy()
    assert again.name == f"{name}.2" and again.current and whole(apps, again.name)
    states = {entry["release"]: entry["state"] for entry in releases.list_releases(apps.path).releases}
    assert "damaged" in states[name] and states[again.name] == "current"


def test_readers_can_read_whatever_the_administrators_umask_is(apps: Site) -> None:
    before = os.umask(0o077)
    try:
        name = apps.deploy().name
    finally:
        os.umask(before)
    for folder, _, files in os.walk(apps.path):
        for path in (Path(folder), *(Path(folder, file) for file in files)):
            mode = path.stat().st_mode
            wanted = 0o555 if path.is_dir() else 0o444
            hidden = ".lock" in path.name
            assert mode & wanted == wanted or hidden, f"{path}: {stat.S_IMODE(mode):o}"
            assert not mode & 0o022
    assert os.umask(before) == before and whole(apps, name)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to act as another user")
def test_members_of_the_group_deploy_and_prune_and_others_only_read(apps: Site, request: pytest.FixtureRequest) -> None:
    group = 54321
    folder = tempfile.TemporaryDirectory()  # pytest's own can't be passed by others
    request.addfinalizer(folder.cleanup)
    os.chmod(folder.name, 0o755)
    apps.path = Path(folder.name) / "sat"
    old = apps.deploy("data", group=str(group)).name
    new = apps.deploy(group=str(group)).name
    for folder in (apps.path, apps.root.releases, apps.root.modules, apps.root.prefix(old), apps.root.current / "lib"):
        found = folder.stat()
        assert found.st_gid == group and found.st_mode & 0o2775 == 0o2775, folder
    script = ("import os, sys; sys.path.insert(0, sys.argv[1])\n"
              "import encodings.ascii, encodings.idna, encodings.latin_1, socket, stat\n"
              "from pathlib import Path\n"
              "from cogvideo_sat_env.base.errors import SatenvError\n"
              "from cogvideo_sat_env.base.progress import Silent\n"
              "from cogvideo_sat_env.cluster import releases\n"
              "os.setgroups([int(sys.argv[3])] if sys.argv[3] else []); os.setgid(65534); os.setuid(65534)\n"
              "root = Path(sys.argv[2])\n"
              "print(releases.list_releases(root).to_text())\n"
              "try: releases.rollback(root, Silent())\n"
              "except SatenvError as error: sys.exit(error.message)\n"
              "releases.rollback(root, Silent())\n"
              "(root / 'history.json').unlink()\n"
              "print(releases.prune(root, Silent(), keep=1, ignore_jobs=True).to_text())\n")  # fmt: skip
    for name in (old, new):
        assert any("its Python" in note for note in apps.deploy(group=str(group)).notes) == _is_hidden(sys.executable)
        (apps.root.prefix(name) / "bin" / "python").unlink()  # the tests' own Python may lie where others can't go
        (apps.root.prefix(name) / "bin" / "python").symlink_to("/bin/sh")
    source = str(TESTS.parent / "src")
    env = {**os.environ, "HOME": "/nonexistent"}
    reader, member = (
        subprocess.run([sys.executable, "-c", script, source, str(apps.path), who], env=env, capture_output=True,
                       text=True, check=False)
        for who in ("", str(group))
    )  # fmt: skip
    assert reader.returncode == 1 and "you can't write there" in reader.stderr, reader.stderr
    assert f"*  {new}" in reader.stdout and old in reader.stdout
    assert member.returncode == 0 and f"deleted: {old}" in member.stdout, member.stderr
    assert apps.root.names() == [new] and current(apps) == new


def _is_hidden(path: str) -> bool:
    return any(not folder.stat().st_mode & 0o001 for folder in Path(os.path.realpath(path)).parents)


@pytest.mark.parametrize("group", ["no-such-group", "9" * 30])
def test_a_group_that_isnt_there_is_named(apps: Site, group: str) -> None:
    with pytest.raises((InputError, PrefixError), match="group"):
        apps.deploy(group=group)
    assert current(apps) is None


def _file(apps: Site) -> None:
    apps.path.parent.mkdir(parents=True)
    apps.path.write_text("x")


def _foreign(apps: Site) -> None:
    apps.path.mkdir(parents=True)
    (apps.path / "thesis.tex").write_text("x")


def _no_link(apps: Site) -> None:
    apps.root.releases.mkdir(parents=True)
    apps.root.current.mkdir()


def _elsewhere(apps: Site) -> None:
    apps.root.releases.mkdir(parents=True)
    apps.root.current.symlink_to("/etc")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_file, "is a file"), (_foreign, "holds other things, e.g. thesis.tex"), (_no_link, "expected a link"),
     (_elsewhere, "expected a link to releases/NAME, found /etc")],
)  # fmt: skip
def test_a_root_that_cannot_be_is_refused_before_the_work(apps: Site, spoil, said: str) -> None:
    spoil(apps)
    before = sorted(map(str, apps.path.rglob("*")))
    with pytest.raises(PrefixError, match=said) as error:
        apps.deploy()
    assert " -p" not in str(error.value.remedy) and sorted(map(str, apps.path.rglob("*"))) == before
    assert not apps.machine.server.requests


@pytest.mark.parametrize("name", ["sa$t", "s at", "sat]", 'sa"t', "sa\nt", "sa;t", "sa:t", "sa{t"])
def test_a_folder_that_scripts_cannot_name_is_refused(apps: Site, name: str) -> None:
    apps.path = apps.path.with_name(name)
    with pytest.raises((InputError, PrefixError)):
        apps.deploy()
    assert not apps.path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a file system")
@pytest.mark.parametrize(("options", "said"), [("size=120k", "no space left"), ("noexec", "mounted noexec"),
                                               ("ro", "Read-only file system|not writable")])  # fmt: skip
def test_a_full_a_noexec_and_a_read_only_file_system_are_named(apps: Site, options: str, said: str) -> None:
    apps.path.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", apps.path], capture_output=True,
                             text=True, check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(PrefixError, match=said) as error:
            apps.deploy()
        assert " -p" not in str(error.value.remedy) and not os.path.lexists(apps.root.current)
    finally:
        subprocess.run(["umount", apps.path], check=True)


RUN = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent / "src")!r}]
from pathlib import Path
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster.deploy import Deployment, deploy
from cogvideo_sat_env.create.create import CreateRequest
from cluster.admin import Site
apps = Site(None, [], Path(sys.argv[1]))
print("started", flush=True)
done = deploy(Deployment(apps.path, CreateRequest(sources=("channel",), variant="cpu")), Silent(), apps.prove)
print(done.name, done.made, flush=True)
"""


def start(apps: Site) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", RUN, str(apps.path)], stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.PIPE)  # fmt: skip
    assert child.stdout.readline() == "started\n", child.stderr.read()
    return child


FORKS = f"""
import os, sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent / "src")!r}]
from pathlib import Path
import rattler
from cogvideo_sat_env.install import post_link, repair, stage_prefix, transaction, workers
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster.deploy import Deployment, deploy
from cogvideo_sat_env.create.create import CreateRequest
from cluster.admin import Site
site = Site(None, [], Path(sys.argv[1]))
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        deploy(Deployment(site.path, CreateRequest(sources=("channel",), variant="cpu")), Silent(), site.prove)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.mark.slow
@pytest.mark.fault("sigkill-deploy", "environment", "users keep what was current; the next run completes the release")
def test_a_deploy_killed_at_30_moments_leaves_users_what_they_had_and_the_next_run_completes_it(apps: Site) -> None:
    old = apps.deploy("data").name
    apps.lock()
    with subprocess.Popen([sys.executable, "-c", FORKS, str(apps.path)], stdin=subprocess.PIPE, text=True, bufsize=1,
                          stdout=subprocess.PIPE) as forks:  # fmt: skip

        def run(seconds: float | None = None) -> int:
            """Deploy in a process of its own, killed after `seconds`; return how it ended."""
            forks.stdin.write("\n")
            pid = int(forks.stdout.readline())
            if seconds is not None:
                time.sleep(seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return int(forks.stdout.readline())

        def forget() -> None:
            """Have the old release current, and the new one never made."""
            releases.activate(apps.path, old, Silent())
            (apps.path / "history.json").unlink()  # else prune keeps it for rollback
            releases.prune(apps.path, Silent(), keep=None, name=new)

        assert run() == 0
        new = current(apps)
        assert new is not None and new != old
        forget()
        began = time.monotonic()
        assert run() == 0
        duration = time.monotonic() - began  # with all packages in the cache, as from now on
        moments, killed = random.Random(13), 0
        for _ in range(30):
            forget()
            killed += run(moments.uniform(0.0, duration * 0.8)) == signal.SIGKILL
            seen = current(apps)
            assert seen in (old, new) and whole(apps, seen)
            assert not apps.root.prefix(new).exists() or whole(apps, new)
            assert run() == 0 and current(apps) == new and whole(apps, new)
            # a probe of the lock, from a run that was killed while it asked, goes a heartbeat later
            left = [path.name for path in apps.root.releases.glob(".*") if ".lock." not in path.name]
            assert left == [] and not list(apps.path.glob(".current*"))
        forks.stdin.close()
    assert killed >= 10


def test_two_administrators_at_once_make_one_release(apps: Site) -> None:
    apps.lock()
    children = [start(apps) for _ in range(3)]
    said = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], said
    assert sorted(out.split()[1] for out, _ in said) == ["created", "up-to-date", "up-to-date"]
    assert len({out.split()[0] for out, _ in said}) == 1 and len(apps.root.names()) == 1


def test_a_record_that_a_killed_run_had_begun_is_removed_by_the_next(apps: Site) -> None:
    name = apps.deploy("data").name
    left = apps.root.releases / f".{name}.json.0123abcd.partial"
    left.write_text("{", encoding="utf-8")
    apps.deploy("data")
    assert not left.exists() and current(apps) == name

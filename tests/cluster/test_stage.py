"""An image on a node: the best way that the node allows, each way down announced, once a node, nothing left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cluster.image_facts import facts_path, read_facts
from cogvideo_sat_env.cluster.squashfs_image import make_image
from cogvideo_sat_env.cluster.stage import bring, mounts
from cogvideo_sat_env.cluster.stage.stage import WAYS, find, release_place, stage
from cogvideo_sat_env.cluster.starter import write_starter
from cogvideo_sat_env.create.create import CreateRequest

pytestmark = pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs squashfs-tools")

NODE = Path(tempfile.gettempdir()) / f"satenv-node-{os.getpid()}"  # where the image says that it is


class Site:
    """A ROOT with one release, folder and image, and a node's own folder for it."""

    def __init__(self, place: Path) -> None:
        self.root, self.at, self.said = place / "root", place / "node", []
        self.folder = self.root / "releases" / "r1"
        self.image = self.root / "images" / "r1.sqfs"
        self.prefix = self.at / "r1"

    def stage(self, source: Path | None = None, ways=WAYS, copied: Path | None = None):
        self.said.clear()
        return stage(find(source or self.root), ways, copied, self.said.append)

    def release(self, everybody: bool = False) -> bool:
        return release_place(find(self.root), everybody, self.said.append)

    def command(self, *arguments: str, python: str = sys.executable, **variables: str):
        env = {**os.environ, "SATENV_PYTHON": python, **variables}
        return subprocess.run([self.root / "stage", *arguments], capture_output=True, text=True, check=False, env=env)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.at.iterdir()) if self.at.exists() else []


@pytest.fixture(scope="module")
def made(sample, tmp_path_factory):
    """The release, made once: tests get links to it."""
    import channelserver
    import install.conftest as installing
    import packages

    place = tmp_path_factory.mktemp("made")
    (place / "envs").mkdir()
    with channelserver.serving(sample) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATENV_CACHE", str(place / "cache"))
        site = installing.Site(
            server, packages.artefacts(sample / "conda-forge", installing.CHANNEL), place / "cache", place
        )
        site.install(place / "root" / "releases" / "r1")
        make_image(lambda r: site.install(r.prefix, seen_at=r.options.seen_at), CreateRequest(),
                   place / "root" / "images" / "r1.sqfs", NODE / "sat", None, Silent())  # fmt: skip
    return place / "root"


@pytest.fixture
def site(made, tmp_path):
    found = Site(tmp_path)
    shutil.copytree(made, found.root, symlinks=True)
    (found.root / "current").symlink_to("releases/r1")
    write_starter(found.root)
    facts = replace(read_facts(found.image), prefix=str(found.prefix), release=str(found.folder))
    facts_path(found.image).write_text(facts.to_json())
    yield found
    while mounts.mounted(found.prefix):
        assert mounts.unmount(found.prefix) is None


@pytest.fixture
def no_mount(monkeypatch):
    """A node that allows no mount to this user."""
    monkeypatch.setattr(
        mounts, "mount", lambda image, at: ("", ["a loop mount needs root", "/dev/fuse: Permission denied"])
    )


@pytest.mark.fault("node-no-mount", "environment", "says why it can't be mounted; it is unpacked on the node")
def test_where_nothing_can_be_mounted_it_is_unpacked_and_that_is_announced(site, no_mount):
    staged = site.stage()
    assert staged.how == "copy" and staged.prefix == site.prefix
    assert any("/dev/fuse: Permission denied" in words for words in site.said) and staged.why == site.said
    assert (site.prefix / "share/prefixed/plain.txt").read_text() == "plain\n"
    assert site.left() == [".r1.json", ".r1.lock", ".r1.users", "r1"], "the image isn't kept beside what was made of it"
    assert site.stage().why == [], "it is there: no second unpacking"
    assert site.release() and site.left() == []


def test_without_unsquashfs_or_room_the_shared_folder_is_used_at_the_same_path(site, no_mount, monkeypatch):
    monkeypatch.setattr(bring.shutil, "which", lambda name, path=None: None)
    staged = site.stage()
    assert (staged.how, staged.prefix) == ("shared", site.prefix) and "no unsquashfs" in "".join(staged.why)
    assert (site.prefix / "bin/activate-cogvideo-sat").is_file() and os.readlink(site.prefix) == str(site.folder)
    shown = subprocess.run(["sh", "-ec", f'. "{staged.activate}"; command -v python'], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    monkeypatch.undo()
    monkeypatch.setattr(mounts, "mount", lambda image, at: ("", ["no"]))
    assert site.stage().how == "copy", "the next one on this node tries again"
    assert site.release() and site.left() == []


@pytest.mark.fault("node-disk-full", "environment", "says needed and free bytes; the shared folder is used")
def test_a_disk_that_is_too_small_leads_to_the_shared_folder_and_nothing_is_left(site, no_mount, monkeypatch):
    usage = shutil.disk_usage(site.root)
    monkeypatch.setattr(bring.shutil, "disk_usage", lambda path: usage._replace(free=100))
    staged = site.stage()
    assert staged.how == "shared" and "100 B free" in staged.why[0] and "read where it is" in staged.why[0]
    assert not list(site.at.glob("*.partial")) and not (site.at / ".r1.sqfs").exists()
    with pytest.raises(SatenvError, match="100 B free"):
        site.release()
        site.stage(ways=("copy",))
    assert site.left() == []


@pytest.mark.fault(
    "image-broken", "environment", "names the image, what was expected and found; the shared folder is used"
)
@pytest.mark.parametrize("damage", ["cut", "changed", "no facts", "other facts"])
def test_a_broken_image_is_never_used(site, no_mount, damage):
    content = site.image.read_bytes()
    if damage == "cut":
        site.image.write_bytes(content[:-100])
    elif damage == "changed":
        site.image.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif damage == "no facts":
        facts_path(site.image).unlink()
    else:
        facts_path(site.image).write_text("{}")
    staged = site.stage()
    assert staged.how == "shared" and staged.prefix == site.folder and "r1.sqfs" in staged.why[0]
    assert site.left() == []
    shutil.rmtree(site.folder)
    if damage in ("cut", "changed"):
        facts = replace(read_facts(site.image), release="")
        facts_path(site.image).write_text(facts.to_json())
        with pytest.raises(VerificationError, match="expected"):
            site.stage()
    else:
        with pytest.raises(InputError, match=r"r1\.sqfs\.json"):
            site.stage()
    assert site.left() == []


def test_an_image_whose_content_is_another_one_is_not_used(site, no_mount):
    facts_path(site.image).write_text(replace(read_facts(site.image), fingerprint="other").to_json())
    staged = site.stage()
    assert staged.how == "shared" and "isn't in what it made" in "".join(staged.why)


def test_many_ranks_of_a_node_get_one_copy(site, tmp_path):
    counting = tmp_path / "bin" / "unsquashfs"
    counting.parent.mkdir()
    counting.write_text(f'#!/bin/sh\necho >> {tmp_path}/runs\nexec {shutil.which("unsquashfs")} "$@"\n')
    counting.chmod(0o755)
    path = f"{counting.parent}:{os.environ['PATH']}"
    with ThreadPoolExecutor(6) as pool:
        ran = list(pool.map(lambda _: site.command("--json", "--how", "copy", PATH=path), range(6)))
    assert (tmp_path / "runs").read_text() == "\n"
    found = [json.loads(one.stdout) for one in ran]
    assert {one["prefix"] for one in found} == {str(site.prefix)} and {one["how"] for one in found} == {"copy"}
    inode = (site.prefix / "conda-meta").stat().st_ino
    assert (
        json.loads(site.command("--json").stdout)["how"] == "copy"
        and (site.prefix / "conda-meta").stat().st_ino == inode
    )


def test_a_killed_run_leaves_nothing_that_the_next_one_minds(site, no_mount):
    site.at.mkdir()
    (site.at / ".r1.123.partial").mkdir()
    (site.at / ".r1.124.partial").write_text("half an image")
    site.prefix.mkdir()
    assert site.stage().how == "copy" and not list(site.at.glob("*.partial"))
    (site.at / ".r1.json").unlink()
    (site.prefix / "share/data/a.txt").unlink()
    assert site.stage().how == "copy" and (site.prefix / "share/data/a.txt").exists()


def test_what_somebody_has_at_the_images_path_is_left_alone(site, no_mount):
    site.prefix.mkdir(parents=True)
    (site.prefix / "thesis").touch()
    staged = site.stage()
    assert staged.how == "shared" and staged.prefix == site.folder and "holds something else" in staged.why[0]
    assert (site.prefix / "thesis").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
def test_nothing_is_unpacked_where_nothing_can_be_started(site, no_mount):
    site.at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=755", "tmpfs", site.at], check=False).returncode:
        pytest.skip("may not mount")
    try:
        staged = site.stage()
        assert staged.how == "shared" and "noexec" in "".join(staged.why) and site.release()
    finally:
        subprocess.run(["umount", site.at], check=True)


def test_the_environment_stays_while_another_job_uses_it(site, no_mount, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    site.stage()
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    site.stage()
    assert not site.release() and "job-7" in site.said[-1] and site.prefix.is_dir()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert site.release() and site.left() == []
    assert not site.release(), "twice is no error"


def test_a_job_undoes_what_it_staged_after_current_was_moved_and_after_jobs_that_were_killed(
    site, no_mount, monkeypatch, tmp_path
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    site.stage()
    site.folder.with_name("r2").symlink_to(site.folder)
    other = site.image.with_name("r2.sqfs")
    shutil.copy(site.image, other)
    facts_path(other).write_text(replace(read_facts(site.image), prefix=str(site.at / "r2")).to_json())
    (site.root / "current").unlink()
    (site.root / "current").symlink_to("releases/r2")
    (site.at / ".r1.users" / "job-5").touch()
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    squeue.chmod(0o755)
    ran = site.command("--release", "--json", PATH=f"{squeue.parent}:{os.environ['PATH']}")
    assert json.loads(ran.stdout)["removed"] is True and site.left() == [], ran.stderr


@pytest.mark.fault("node-folder", "environment", "names the folder and why it isn't trusted; the shared folder is used")
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_place_that_others_can_write_to_is_not_trusted(site, no_mount, mode):
    site.at.mkdir()
    site.at.chmod(mode)
    staged = site.stage()
    assert staged.how == "shared" and staged.prefix == site.folder and "others can write" in staged.why[0]
    with pytest.raises(PrefixError, match="others can write"):
        site.stage(ways=("mount",))


def test_another_users_place_or_a_link_is_not_trusted(site, no_mount, tmp_path):
    site.at.symlink_to(tmp_path)
    assert "not a folder" in site.stage().why[0]
    site.at.unlink()
    if os.geteuid() == 0:
        site.at.mkdir()
        os.chown(site.at, 1234, 1234)
        assert "another user (uid 1234)" in site.stage().why[0]


@pytest.mark.parametrize("version", ["3.9", "3.13"])
def test_the_starter_needs_a_shell_and_an_old_python_alone(site, version):
    others = Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python3")
    python = next(map(str, others), shutil.which(f"python{version}"))
    if python is None or subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip(f"no Python {version}")
    ran = site.command("--how", "copy", python=python)
    assert (ran.returncode, ran.stdout) == (0, f"{site.prefix}/bin/activate-cogvideo-sat\n"), ran.stderr
    ran = site.command("--release", python=python)
    assert ran.returncode == 0 and site.left() == [], ran.stderr


def test_one_clear_error_for_what_cannot_be(site, tmp_path):
    ran = site.command(str(tmp_path / "no"))
    assert ran.returncode == 3 and "expected a ROOT" in ran.stderr and not ran.stdout
    ran = site.command("", python=sys.executable)
    assert ran.returncode == 2 and not ran.stdout
    (site.root / "current").unlink()
    ran = site.command()
    assert ran.returncode == 3 and "current" in ran.stderr and not ran.stdout
    (site.root / "current").symlink_to("releases/gone")
    assert site.command().returncode == 3
    ran = site.command(python="/nowhere", PATH="/usr/bin:/bin")
    assert ran.returncode in (0, 3), "another Python is found"
    assert write_starter(site.root).read_bytes() == write_starter(tmp_path).read_bytes()


def test_a_starter_that_is_cut_off_in_its_shell_part_says_so(tmp_path):
    whole = write_starter(tmp_path).read_text(encoding="utf-8")
    shell = whole.index("\n}\n") + 1  # from there on the shell has all of its part
    ends = {*range(12, shell, 13), *(end for end in range(12, shell) if whole[end] == "\n")}
    for end in sorted(ends):  # of fewer bytes than "#!/bin/sh" and a line break no shell can know that they aren't all
        cut = tmp_path / "cut"
        cut.write_text(whole[:end], encoding="utf-8")
        ran = subprocess.run(["/bin/sh", cut, "--help"], capture_output=True, text=True, check=False)
        assert ran.returncode and ran.stderr and not ran.stdout, (end, whole[:end][-40:])


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")


@pytest.mark.e2e
@needs_root
def test_the_image_is_mounted_by_a_loop_device_as_root_and_by_fuse_where_that_fails(site, monkeypatch):
    if "squashfs" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no squashfs")
    staged = site.stage()
    if staged.how != "loop":
        pytest.skip(f"no loop device here: {staged.why}")
    assert staged.why == [] and mounts.mounted(site.prefix) == "squashfs"
    assert site.stage().how == "loop", "there already"
    ran = subprocess.run([site.prefix / "bin/prefixed"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{NODE}/sat/r1/share\n", "the path that the image was made for"
    with subprocess.Popen(["sleep", "100"], cwd=site.prefix) as user:
        with pytest.raises(PrefixError, match="can't be unmounted"):
            site.release()
        user.kill()
    assert site.release() and site.left() == []

    if shutil.which("squashfuse") is None or not os.path.exists("/dev/fuse"):
        pytest.skip("no squashfuse or no /dev/fuse")
    monkeypatch.setattr(mounts, "_loop", lambda image, at: "no loop devices")
    staged = site.stage()
    assert staged.how == "fuse" and staged.why == [], site.said
    assert "squashfuse" in mounts.mounted(site.prefix)
    assert (site.prefix / "share/prefixed/plain.txt").read_text() == "plain\n"
    assert site.release() and site.left() == []


@pytest.mark.e2e
@needs_root
def test_a_user_whose_dev_fuse_is_closed_gets_an_unpacked_copy_and_can_undo_it(site):
    os.chmod(site.root.parent, 0o1777)
    for path in site.root.parents:
        if path.stat().st_uid == 0 and not path.stat().st_mode & 1:
            os.chmod(path, path.stat().st_mode | 0o11)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*as_nobody, "test", "-w", "/dev/fuse"], check=False).returncode == 0:
        pytest.skip("everybody may use /dev/fuse here")
    command = [
        *as_nobody,
        "/usr/bin/env",
        f"SATENV_PYTHON={shutil.which('python3', path='/usr/bin')}",
        site.root / "stage",
    ]
    ran = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["how"] == "copy" and "/dev/fuse: Permission denied" in ran.stderr and "needs root" in ran.stderr
    assert site.prefix.stat().st_uid == 65534
    staged = site.stage()
    assert staged.how == "shared" and "another user (uid 65534)" in staged.why[0], "root doesn't run what a user made"
    ran = subprocess.run([*command, "--release"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and site.left() == [], ran.stderr

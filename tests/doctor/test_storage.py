"""Storage checks: mount tables of clusters that we don't have, and the room on the real file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor.checks import storage
from cogvideo_sat_env.doctor.checks._mounts import kind_of

TABLE = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:40 / {home} rw,nosuid shared:2 master:1 - nfs4 server:/home rw,vers=4.2
23 21 0:41 / {software} ro,relatime shared:3 - lustre 10.0.0.1@o2ib:/fs ro
24 23 7:0 / {software}/images/sat ro shared:4 - squashfs /dev/loop0 ro
25 21 0:42 / /mnt/a\\040folder rw - tmpfs tmpfs rw
this is no line of mountinfo
"""


@pytest.fixture
def cluster(tmp_path):
    """A cluster's folders: home on NFS, software on Lustre with a squashfs image in it; and its mount table."""
    for name in ("home", "software/images/sat", "local"):
        (tmp_path / name).mkdir(parents=True)
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(home=tmp_path / "home", software=tmp_path / "software"))
    return table


@pytest.mark.parametrize(
    ("path", "kind", "is_shared", "is_image"),
    [
        ("home/someone/.cache", "nfs4", True, False), ("software/envs/sat", "lustre", True, False),
        ("software/images/sat/lib", "squashfs", False, True), ("local", "ext4", False, False),
    ],
)  # fmt: skip
def test_the_innermost_mount_counts_also_for_folders_that_do_not_exist(
    cluster, tmp_path, path, kind, is_shared, is_image
):
    mount = kind_of(tmp_path / path, cluster)
    assert (mount.kind, mount.is_shared, mount.is_image) == (kind, is_shared, is_image)


def test_the_later_of_two_mounts_on_one_point_counts(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 8:1 / {tmp_path} rw - nfs s:/ rw\n2 1 8:2 / {tmp_path} rw - xfs /dev/sdb ro\n")
    assert kind_of(tmp_path, table).kind == "xfs"


def test_links_are_followed_and_escapes_read(cluster, tmp_path):
    (tmp_path / "local" / "cache").symlink_to(tmp_path / "home")
    assert kind_of(tmp_path / "local" / "cache", cluster).kind == "nfs4"
    table = tmp_path / "escaped"
    (tmp_path / "a folder").mkdir()
    table.write_text(f"1 0 8:1 / {tmp_path}/a\\040folder rw - beegfs_nodev x rw\n")
    assert kind_of(tmp_path / "a folder" / "b", table).is_shared
    assert kind_of(tmp_path, tmp_path / "absent") is None


def test_this_machines_own_table_knows_its_root():
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("no /proc/self/mountinfo on this system")
    assert kind_of(Path("/")).kind


def check(prefix, cluster, tmp_path, name="storage.shared", **variables):
    base = {name: str(tmp_path / "local") for name in ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "TMPDIR")}
    return prefix.check(name, options={"storage.mountinfo": str(cluster)}, **(base | variables))


def test_caches_on_this_machine_pass(prefix, cluster, tmp_path):
    result = check(prefix, cluster, tmp_path)
    assert result.status == "passed" and result.finding.startswith(
        "the environment is on ext4; caches of compiled code"
    )


def test_caches_of_compiled_code_on_a_shared_file_system_are_told(prefix, cluster, tmp_path):
    result = check(prefix, cluster, tmp_path, TRITON_CACHE_DIR=str(tmp_path / "home/.triton"))
    assert result.status == "warning" and f"TRITON_CACHE_DIR ({tmp_path}/home/.triton) is on nfs4" in result.finding
    assert result.remedy == 'export TRITON_CACHE_DIR="/tmp/$USER-triton-cache-dir"'


def test_downloads_may_be_shared_and_the_default_is_in_the_home(prefix, cluster, tmp_path):
    result = check(prefix, cluster, tmp_path, HF_HOME=str(tmp_path / "home/hf"))
    assert result.status == "passed" and result.details["places"]["HF_HOME"]["shared"] is True
    result = prefix.check("storage.shared", options={"storage.mountinfo": str(cluster)}, HOME=str(tmp_path / "home"))
    assert (
        result.status == "warning" and "TRITON_CACHE_DIR" in result.finding and "TORCH_EXTENSIONS_DIR" in result.finding
    )


def test_an_environment_on_a_shared_file_system_or_in_an_image_is_told(prefix, cluster, tmp_path):
    for point, words in (("lustre", "which other machines share"), ("squashfs", "one file, quick to import from")):
        cluster.write_text(f"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / {prefix.root} rw - {point} b rw\n")
        result = check(prefix, cluster, tmp_path)
        assert result.status == "passed" and words in result.finding


def test_room_is_told_in_bytes_and_inodes(prefix, cluster, tmp_path):
    result = check(prefix, cluster, tmp_path, "storage.space")
    assert result.status == "passed" and " GiB" in result.finding
    free = result.details["places"]["TMPDIR"]
    assert free["path"] == str(tmp_path / "local") and free["free"] > 0 and free["type"] == "ext4"


@pytest.mark.parametrize(
    ("blocks", "inodes", "status", "words"),
    [
        (1000, 10**6, "failed", "has 0.0 GiB left, 1 are enough for certain"),
        (100_000, 10**6, "warning", "has 0.4 GiB left, 1 are enough for certain"),
        (10**9, 12, "failed", "has room for 12 files, 1000 are enough for certain"),
        (10**9, 500, "warning", "has room for 500 files, 1000 are enough for certain"),
    ],
    ids=["no bytes", "few bytes", "no inodes", "few inodes"],
)
def test_no_room_is_a_failure_that_names_the_variable(monkeypatch, tmp_path, blocks, inodes, status, words):
    """Called in this process: a full file system can't be had here."""
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((4096, 4096, 10**9, blocks, blocks, 10**7, inodes, inodes, real.f_flag, 255))
    monkeypatch.setattr(storage.os, "statvfs", lambda path: full if "local" in str(path) else real)
    (tmp_path / "local").mkdir()
    inputs = {
        "prefix": str(tmp_path), "activation": {"sets": {"TORCH_EXTENSIONS_DIR": str(tmp_path)}}, "options": {},
        "places": {"TMPDIR": str(tmp_path / "local")},
    }  # fmt: skip
    outcome = storage.space(storage.ProbeRequest(tmp_path, tmp_path, inputs))
    assert (
        outcome.status == status
        and f"TMPDIR ({tmp_path}/local) {words}" in outcome.finding
        and "TMPDIR" in outcome.remedy
    )


def test_too_little_shared_memory_for_workers_is_told(monkeypatch, tmp_path):
    """A container has 64 MB of /dev/shm unless told otherwise; called in this process, because this machine has more."""
    real = os.statvfs(tmp_path)
    small = os.statvfs_result((4096, 4096, 16384, 16000, 16000, 10**6, 10**6, 10**6, real.f_flag, 255))
    monkeypatch.setattr(storage.os, "statvfs", lambda path: small if str(path) == "/dev/shm" else real)
    monkeypatch.setattr(storage.os.path, "isdir", lambda path: True)
    inputs = {"prefix": str(tmp_path), "activation": {"sets": {"TORCH_EXTENSIONS_DIR": str(tmp_path)}}, "places": {}}
    outcome = storage.space(storage.ProbeRequest(tmp_path, tmp_path, inputs))
    assert outcome.status == "warning" and "/dev/shm has 0.06 GiB" in outcome.finding and "--shm-size" in outcome.remedy
    data_only = storage.space(storage.ProbeRequest(tmp_path, tmp_path, inputs | {"data_only": True}))
    assert data_only.status == "passed"


def test_the_time_of_an_import_is_measured_from_memory_and_from_the_disk(prefix):
    prefix.module("sat", "import json, decimal\n")
    result = prefix.check("storage.import-time")
    assert result.status == "passed" and result.finding.startswith("import sat opens ")
    assert result.details["files"] > 10 and result.details["warm"] >= 0
    assert (result.details["cold"] is None) == (not hasattr(os, "posix_fadvise"))


def test_a_slow_import_is_told(monkeypatch, tmp_path):
    """As from a parallel file system: a minute for the small files."""
    monkeypatch.setattr(storage, "_import", lambda module, folder: (75.0, [__file__]))
    outcome = storage.import_time(storage.ProbeRequest(tmp_path, tmp_path, {}))
    expected = "warning" if hasattr(os, "posix_fadvise") else "passed"
    assert outcome.status == expected and (expected == "passed" or "squashfs" in outcome.remedy)


def test_an_import_that_fails_is_a_failure(prefix):
    prefix.module("sat", "raise ImportError('libx.so: cannot open shared object file')\n")
    result = prefix.check("storage.import-time")
    assert result.status == "failed" and "import sat fails: ImportError: libx.so" in result.finding

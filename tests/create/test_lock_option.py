"""`satenv create --lock FILE`, `update --lock FILE` and `--wait`: a lock of the user's own, and other runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml

import airgap
import packages
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.install.prefix_lock import Owner, lock_path

from .test_create import Machine, channel, machine  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]


def own_lock(machine: Machine, channel: Path, count: int = 2, **changes: object) -> Path:  # noqa: F811
    """Write a conda-lock file outside the project, with the first `count` packages; `changes` go into every entry."""
    entries = [
        {
            "name": a.name, "version": a.version, "manager": "conda", "platform": "linux-64", "dependencies": {},
            "url": a.url, "hash": {"md5": a.md5, "sha256": a.sha256}, "category": "main", "optional": False, **changes,
        }
        for a in packages.artefacts(channel / "conda-forge", f"{machine.server.url}/conda-forge")[:count]
    ]  # fmt: skip
    metadata = {"content_hash": {"linux-64": "0" * 64}, "channels": [], "platforms": ["linux-64"], "sources": []}
    path = machine.home / "mine.conda-lock.yml"
    path.write_text(yaml.safe_dump({"version": 1, "metadata": metadata, "package": entries}))
    return path


@pytest.mark.e2e
def test_another_lock_is_installed_recorded_and_remembered(machine, channel):  # noqa: F811
    path = own_lock(machine, channel)
    run = machine.create("--lock", str(path), "--json")
    assert run.returncode == 0 and json.loads(run.stdout)["packages"] == 2, run.stderr
    receipt = json.loads((machine.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())
    assert receipt["lock"] == str(path) and receipt["variant"] == "linux-64-cpu"
    assert receipt["lock_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    machine.server.heal()
    again = machine.create("--lock", os.path.relpath(path))
    assert "is up to date (2 packages" in again.stdout and machine.server.requests == []
    (machine.prefix / "share/data/a.txt").unlink()
    assert "put right: share/data/a.txt" in machine.create("--repair").stdout, "with its own lock"
    assert "holds another environment" in machine.create().stderr, "the project has a lock of its own"
    own_lock(machine, channel, 3)
    run = machine.satenv("update", "--no-doctor")
    assert run.returncode == 0 and ": updated from channel, 3 packages" in run.stdout, run.stderr
    project = machine.satenv(
        "update", "--no-doctor", "--lock", str(machine.project / "locks/linux-64-cpu-conda-lock.yml")
    )
    assert ": updated from channel, 4 packages" in project.stdout, project.stderr
    assert json.loads((machine.prefix / "etc/cogvideo-sat-env/receipt.json").read_text())["lock"].startswith("locks/")
    assert machine.satenv("update", "--no-doctor", "--lock", str(path)).returncode == 0
    path.unlink()
    gone = machine.satenv("update", "--no-doctor")
    assert gone.returncode == 3 and f"{path}: no such file" in gone.stderr and "--lock" in gone.stderr


def test_what_nothing_else_needs_counts_as_asked_for(machine, channel):  # noqa: F811
    path = own_lock(machine, channel, 4)
    content = yaml.safe_load(path.read_text())
    next(e for e in content["package"] if e["name"] == "data")["dependencies"] = {"linked": "", "x264": ">=1"}
    path.write_text(yaml.safe_dump(content))
    assert machine.create("--lock", str(path)).returncode == 0
    asked = {}
    for record in (machine.prefix / "conda-meta").glob("*.json"):
        found = json.loads(record.read_text())
        asked[found["name"]] = bool(found.get("requested_spec") or found.get("requested_specs"))
    assert asked == {"data": True, "prefixed": True, "linked": False, "x264": False}


def test_categories_are_those_that_conda_lock_installs(machine, channel):  # noqa: F811
    path = own_lock(machine, channel, 4)
    content = yaml.safe_load(path.read_text())
    entries = {e["name"]: e for e in content["package"]}
    entries["linked"]["category"] = "dev"
    entries["x264"] |= {"category": "docs", "optional": True}
    virtual = {"name": "__glibc", "version": "2.28", "url": "", "hash": {}, "manager": "conda", "platform": "linux-64"}
    content["package"] += [{**entries["linked"], "category": "main"}, {**virtual, "url": "x", "dependencies": {}}]
    path.write_text(yaml.safe_dump(content))
    assert machine.create("--lock", str(path)).returncode == 0
    names = {p.name.partition("-")[0] for p in (machine.prefix / "conda-meta").glob("*.json")}
    assert names == {"data", "linked", "prefixed"}


def test_wrong_bytes_are_refused_as_ever(machine, channel):  # noqa: F811
    run = machine.create("--lock", str(own_lock(machine, channel, hash={"sha256": "a" * 64})))
    assert run.returncode == 4 and "a" * 64 in run.stderr and not machine.prefix.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hash": {"md5": "0" * 32}}, "data has no SHA-256"),
        ({"platform": "osx-arm64", "metadata": ["osx-arm64"]}, "holds no solution for linux-64; it has osx-arm64"),
        ({"url": "https://conda.example.org/x/osx-arm64/data-3-0.conda"}, "its URL is in the subdir 'osx-arm64'"),
    ],
)
def test_a_lock_that_cannot_be_used_is_named(machine, channel, changes, said):  # noqa: F811
    platforms = changes.pop("metadata", None)
    path = own_lock(machine, channel, 1, **changes)
    if platforms:
        path.write_text(path.read_text().replace("platforms:\n  - linux-64", "platforms:\n  - osx-arm64"))
    run = machine.create("--lock", str(path))
    assert run.returncode == 3 and said in run.stderr and str(path) in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "text",
    ["@EXPLICIT\nhttps://conda.example.org/x/noarch/data-3-0.conda#sha256:00\n", "name: x\ndependencies: [python]\n",
     "", "\0\1\2"],
)  # fmt: skip
def test_what_is_no_lock_is_named(machine, text):  # noqa: F811
    path = machine.home / "mine.yml"
    path.write_text(text)
    run = machine.create("--lock", str(path))
    assert run.returncode == 3 and str(path) in run.stderr and "a conda-lock file" in run.stderr, run.stderr
    assert ("is an explicit lockfile" in run.stderr) is text.startswith("@EXPLICIT")
    assert "Traceback" not in run.stderr


def test_a_lock_that_is_missing_is_named(machine):  # noqa: F811
    run = machine.create("--lock", str(machine.home / "none.yml"))
    assert run.returncode == 3 and "none.yml: no such file" in run.stderr


def test_two_packages_of_one_name_are_refused(machine, channel):  # noqa: F811
    path = own_lock(machine, channel, 2)
    content = yaml.safe_load(path.read_text())
    first = content["package"][0]
    content["package"].append({**first, "url": first["url"].replace("-0.conda", "-1.conda")})
    path.write_text(yaml.safe_dump(content))
    run = machine.create("--lock", str(path))
    assert run.returncode == 3 and "has data twice" in run.stderr


def test_a_lock_is_not_for_wheels(machine, channel):  # noqa: F811
    run = machine.satenv("create", "--source", "wheels", "--lock", str(own_lock(machine, channel)))
    assert run.returncode == 3 and "the wheels source has locks of its own" in run.stderr


def test_the_pip_part_of_another_lock_is_installed(machine, channel, tmp_path):  # noqa: F811
    root = tmp_path / "root"
    shutil.copytree(channel, root)
    packages.make_host_python(root / "conda-forge", packages.pip_wheels(tmp_path / "wheels"))
    airgap.make_wheel(root / "files")
    machine.server.root = root
    lab = airgap.Lab(tmp_path, machine.server, machine.home)
    found = packages.artefacts(root / "conda-forge", f"{machine.server.url}/conda-forge")
    lab.write_lock(found, [airgap.wheel_pin(root)], path="other.conda-lock.yml")
    text = (tmp_path / "other.conda-lock.yml").read_text()  # conda-lock itself writes the index's addresses
    (tmp_path / "other.conda-lock.yml").write_text(
        text.replace("${SATENV_WHEELHOUSE}", "https://files.example.org/a/b")
    )
    run = machine.create("--lock", str(tmp_path / "other.conda-lock.yml"), PIP_INDEX_URL=machine.server.index_url)
    assert run.returncode == 0, run.stderr
    assert (packages.site_packages(machine.prefix) / "tinywheel.py").read_text() == "VALUE = 42\n"


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["create", "update", "undo"])
def test_waiting_for_another_run_ends_when_told(machine, channel, command):  # noqa: F811
    assert machine.create().returncode == 0
    machine.write_lock(packages.artefacts(channel / "conda-forge", f"{machine.server.url}/conda-forge")[:3])
    if command == "undo":
        assert machine.satenv("update", "--no-doctor").returncode == 0
    from dataclasses import asdict, replace

    other = replace(Owner.this_process(), host="elsewhere")
    lock_path(machine.prefix).write_text(json.dumps(asdict(other)))
    options = {"create": ["--variant", "cpu", "--replace", "--no-doctor"], "update": ["--no-doctor"], "undo": []}[
        command
    ]
    run = machine.satenv(command, "--wait", "0.5", *options)
    assert run.returncode == 6 and "still locked after 0.5 s by process" in run.stderr, run.stderr
    assert "elsewhere" in run.stderr and socket.gethostname() not in run.stderr
    lock_path(machine.prefix).unlink()
    assert machine.satenv(command, "--wait", "0", *options).returncode == 0
    assert machine.satenv(command, "--wait", "-1").returncode == 2
    assert "[default: until it ends]" in " ".join(machine.satenv(command, "--help").stdout.split())


def test_a_file_that_is_gone_from_its_channel_has_a_remedy_for_the_users_own_lock(machine, channel):  # noqa: F811
    path = own_lock(machine, channel)
    path.write_text(path.read_text().replace("data-3-0", "data-4-0").replace("'3'", "'4'"))
    run = machine.create("--lock", str(path))
    assert run.returncode == 5 and "404" in run.stderr and "conda-lock lock" in run.stderr
    assert "satenv lock" not in run.stderr

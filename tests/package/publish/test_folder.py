"""Publishing to a folder: dry run, whole packages, index last, no other bytes under a name that is taken."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.package.publish.publish import Published, publish

PROJECT = Path(__file__).parents[3]


def run(channel: Path, target: object, *, yes: bool = True, force: bool = False) -> Published:
    return publish(channel, str(target), yes=yes, force=force, server=None, root=PROJECT, progress=Silent())


def states(outcome: Published) -> dict[str, str]:
    return {f"{i.package.name} {i.package.path.name.rsplit('-')[-1][:3]}": i.state for i in outcome.items}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_dry_run_tells_all_and_changes_nothing(channel, tmp_path):
    outcome = run(channel, tmp_path / "site", yes=False)
    assert set(states(outcome).values()) == {"new"} and not outcome.uploaded and outcome.exit_code == 0
    text = outcome.to_text()
    for package in outcome.items:
        assert package.package.key in text and package.package.sha256 in text
    assert "nothing was uploaded; add --yes" in text
    assert not (tmp_path / "site").exists()


def test_what_was_published_can_be_solved(channel, tmp_path):
    assert run(channel, (tmp_path / "site").as_uri()).uploaded
    found = tree(tmp_path / "site")
    assert {name: data for name, data in found.items() if name.endswith(".conda")} == {
        name: data for name, data in tree(channel).items() if name.endswith(".conda")
    }
    assert not [name for name in found if "partial" in name or name.startswith(".tmp")]
    (record,) = solve([(tmp_path / "site").as_uri()], ["toy-piece"], current_platform(), {})
    assert record["sha256"] == json.loads(found["noarch/repodata.json"])["packages.conda"][
        "toy-piece-1.0-py_0.conda"
    ]["sha256"]  # fmt: skip


def test_again_there_is_nothing_to_do_and_others_packages_stay(channel, tmp_path):
    site = tmp_path / "site"
    packages.make_package(packages.Spec("theirs", noarch="generic"), site, "noarch")
    packages.index(site)
    assert run(channel, site).uploaded
    before = tree(site)
    again = run(channel, site)
    assert set(states(again).values()) == {"same"} and not again.uploaded
    assert "nothing to do" in again.to_text() and tree(site) == before
    names = {record["name"] for record in solve([site.as_uri()], ["theirs", "toy-piece"], current_platform(), {})}
    assert names == {"theirs", "toy-piece"}


def other_bytes(channel: Path) -> None:
    spec = packages.Spec("toy-piece", "1.0", "py_0", {"share/toy-piece": packages.Text("y\n")}, noarch="generic")
    packages.make_package(spec, channel, "noarch")
    (channel / "noarch" / "repodata.json").unlink()  # the indexer doesn't read again what it knows by name
    packages.index(channel)


def test_other_bytes_under_a_taken_name_are_refused(channel, tmp_path):
    site = tmp_path / "site"
    run(channel, site)
    before = tree(site)
    other_bytes(channel)
    dry = run(channel, site, yes=False)
    assert states(dry)["toy-piece py_"] == "different" and dry.exit_code == 1
    assert "DIFFERENT" in dry.to_text() and dry.items[0].there in dry.to_text()
    with pytest.raises(VerificationError, match=r"has noarch/toy-piece-1\.0-py_0\.conda with other bytes"):
        run(channel, site)
    assert tree(site) == before
    assert run(channel, site, force=True).uploaded
    (record,) = solve([site.as_uri()], ["toy-piece"], current_platform(), {})
    assert record["sha256"] == dry.items[0].package.sha256


def test_what_needs_comes_after_what_is_needed(channel, tmp_path):
    outcome = run(channel, tmp_path / "site", yes=False)
    assert [item.package.name for item in outcome.items] == ["toy-piece", "toy", "toy"]


def damage(channel: Path, how: str) -> str:
    piece = channel / "noarch" / "toy-piece-1.0-py_0.conda"
    index = channel / "noarch" / "repodata.json"
    data = json.loads(index.read_text())
    record = data["packages.conda"][piece.name]
    if how == "missing":
        piece.unlink()
        return "toy-piece-1.0-py_0.conda is in repodata.json, but not there"
    if how == "unknown":
        (channel / "noarch" / "more-1-0.conda").write_bytes(piece.read_bytes())
        return "more-1-0.conda is there, but not in repodata.json"
    if how == "flipped":
        content = bytearray(piece.read_bytes())
        content[len(content) // 2] ^= 1
        piece.write_bytes(content)
        return "expected sha256"
    if how == "longer":
        piece.write_bytes(piece.read_bytes() + b"x")
        return "expected [0-9]+ bytes"
    if how == "packed":
        index.write_text(index.read_text() + " ")
        return "repodata.json.zst: differs"
    (index.with_name("repodata.json.zst")).unlink()
    if how == "depends":
        record["depends"] = ["python"]
        index.write_text(json.dumps(data))
        return r"says depends \['python'\], the package itself"
    index.write_text("{")
    return "not repodata"


@pytest.mark.parametrize("how", ["missing", "unknown", "flipped", "longer", "packed", "depends", "broken"])
def test_a_channel_that_disagrees_with_itself_is_refused_before_the_first_upload(channel, tmp_path, how):
    expected = damage(channel, how)
    with pytest.raises(VerificationError, match=expected):
        run(channel, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("need", "expected"),
    [("no-such-package >=1", "neither in"), ("other-channel::python", "a dependency that names its channel")],
)
def test_a_dependency_that_no_known_channel_has_is_refused(channel, tmp_path, need, expected):
    packages.make_package(packages.Spec("needy", depends=[need], noarch="generic"), channel, "noarch")
    packages.index(channel)
    with pytest.raises(VerificationError, match=f"needy.*{expected}"):
        run(channel, tmp_path / "site", yes=False)


def test_targets_that_are_none_are_named(channel, tmp_path):
    (tmp_path / "file").write_text("")
    for target, message in {
        "ftp://example.org/x": "expected a folder",
        "s3://bucket": "expected s3://BUCKET/PREFIX",
        str(tmp_path / "file"): "is a file",
        str(channel): "is the built channel itself",
        "https://example.org/channel": "what kind of server",
        "https://prefix.dev": "names no channel",
        "https://user:secret@prefix.dev/channel": "holds credentials",
        "https://anaconda.org/t/secret/owner": "holds credentials",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            run(channel, target, yes=False)
        assert "secret" not in caught.value.message
    with pytest.raises(InputError, match="not an indexed channel"):
        run(tmp_path, tmp_path / "site")


def test_a_target_that_cannot_be_written_is_named(channel, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "noarch").write_text("in the way")
    with pytest.raises(SourceError, match=r"noarch.*the index there is as it was"):
        run(channel, tmp_path / "site")


def test_a_target_without_space_is_named_and_not_the_source(channel, tmp_path, monkeypatch):
    def full(source: Path, target: Path) -> None:  # what shutil raises on Linux
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(SourceError, match=r"No space left on device") as failure:
        run(channel, tmp_path / "site")
    assert failure.value.message.startswith(str(tmp_path / "site"))


def test_two_at_once_do_not_mix(channel, tmp_path):
    from filelock import FileLock

    (tmp_path / "site").mkdir()
    with FileLock(tmp_path / "site" / ".satenv-publish.lock"), pytest.raises(SourceError, match="another publish"):
        run(channel, tmp_path / "site")


def test_what_a_killed_run_left_is_removed(channel, tmp_path):
    site = tmp_path / "site"
    (site / "noarch").mkdir(parents=True)
    (site / "noarch" / ".toy-piece-1.0-py_0.conda.0a1b2c3d.partial").write_bytes(b"half")
    run(channel, site)
    assert not [name for name in tree(site) if "partial" in name]


def test_the_command_prints_one_object(channel, tmp_path):
    child = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env", "publish", str(channel), str(tmp_path / "site"), "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert (found["dry_run"], found["uploaded"], len(found["packages"])) == (True, False, 3)
    assert {p["state"] for p in found["packages"]} == {"new"}

"""`satenv mirror` as a user types it: everything proven, nothing fetched twice, channels that solvers read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

import airgap
import channelserver
from airgap import OLD, WHEEL, Lab
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.source.mirror.selection import choose, safe_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]
LINKED = "conda-forge/linux-64/linked-1.0-h0_0.conda"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return airgap.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def lab(world: Path, project: Path, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "home").mkdir()
    with channelserver.serving(world) as server:
        lab = Lab(project, server, tmp_path / "home")
        lab.write_lock(airgap.locked(world, f"{server.url}/conda-forge"), [airgap.wheel_pin(world)])
        yield lab


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def _mirror(lab: Lab, folder: Path, *arguments: str) -> dict:
    run = lab.satenv("mirror", str(folder), "--variant", "cpu", "--json", *arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def _content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*")) if p.is_file() and ".satenv" not in p.parts
    }  # fmt: skip


def test_a_mirror_holds_everything_and_again_fetches_nothing(lab: Lab, folder: Path, world: Path) -> None:
    made = _mirror(lab, folder)
    assert (made["conda"], made["pip"], made["fetched"]) == (5, 1, 6)
    assert made["channels"] == {"conda-forge": {"linux-64": 3, "noarch": 2}, "nvidia": {"linux-64": 0, "noarch": 0}}
    assert (folder / "wheelhouse" / WHEEL).read_bytes() == (world / "files" / WHEEL).read_bytes()
    first = _content(folder)
    lab.server.heal()
    again = _mirror(lab, folder)
    assert again["fetched"] == 0 and lab.server.requests == [] and _content(folder) == first
    damaged = bytearray((folder / LINKED).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / LINKED).write_bytes(damaged)
    assert _mirror(lab, folder)["fetched"] == 1, "it is proven, not believed"
    assert _content(folder) == first
    assert _mirror(lab, folder, "--fast")["fetched"] == 0


def test_fast_trusts_no_swapped_file_and_no_list_of_others(lab: Lab, folder: Path) -> None:
    _mirror(lab, folder)
    path, verified = folder / LINKED, folder / ".satenv" / "verified.json"
    content, before = path.read_bytes(), path.stat()

    def swap() -> None:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    swap()
    assert _mirror(lab, folder, "--fast")["fetched"] == 1 and path.read_bytes() == content
    swap()
    known, now = json.loads(verified.read_text()), path.stat()
    known[LINKED][:4] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
    verified.write_text(json.dumps(known))
    verified.chmod(0o666)
    assert _mirror(lab, folder, "--fast")["fetched"] == 1 and path.read_bytes() == content
    assert verified.stat().st_mode & 0o777 == 0o600


def test_two_mirrors_of_one_lock_are_the_same_bytes(lab: Lab, folder: Path, tmp_path: Path) -> None:
    _mirror(lab, folder)
    _mirror(lab, tmp_path / "second", "--from", str(folder), "--jobs", "1")
    assert _content(folder) == _content(tmp_path / "second")
    text = "".join(str(content) for name, content in _content(folder).items() if name.endswith("json"))
    assert str(tmp_path) not in text


def test_the_records_are_the_packages_own_with_the_locks_dependencies(lab: Lab, folder: Path) -> None:
    _mirror(lab, folder)
    content = (folder / "conda-forge" / "noarch" / "repodata.json").read_bytes()
    repodata = json.loads(content)
    packed = (folder / "conda-forge" / "noarch" / "repodata.json.zst").read_bytes()
    assert zstandard.ZstdDecompressor().decompress(packed) == content
    old = repodata["packages"][OLD]
    assert old["depends"] == ["data >=2", "linked"], "as the channel has corrected it"
    assert old["license"] == "MIT" and old["size"] == (folder / "conda-forge" / "noarch" / OLD).stat().st_size
    assert len(old["sha256"]) == 64 and len(old["md5"]) == 32


def test_the_engine_solves_over_the_mirror(lab: Lab, folder: Path) -> None:
    _mirror(lab, folder)
    channels = [(folder / name).as_uri() for name in ("conda-forge", "nvidia")]
    records = solve(channels, ["old", "x264"], "linux-64", {})
    assert sorted(r["name"] for r in records) == ["data", "linked", "old", "x264"]


def test_create_takes_everything_from_a_mirror(lab: Lab, folder: Path, world: Path) -> None:
    lab.write_lock(airgap.locked(world, f"{lab.server.url}/conda-forge"))
    _mirror(lab, folder)
    lab.server.close()
    run = lab.satenv(
        "create", "--source", f"mirror={folder}", "--variant", "cpu", "--no-doctor", "-p", str(lab.home / "env")
    )
    assert run.returncode == 0, run.stderr
    assert (lab.home / "env" / "share" / "old" / "body").stat().st_size == 8000


def test_a_second_variant_joins_the_first(lab: Lab, folder: Path, world: Path) -> None:
    _mirror(lab, folder)
    fewer = [a for a in airgap.locked(world, f"{lab.server.url}/conda-forge") if a.name in ("x264", "data")]
    lab.write_lock(fewer, path=airgap.CUDA_LOCK)
    run = lab.satenv("mirror", str(folder), "--variant", "cuda")
    assert run.returncode == 0, run.stderr
    assert "nothing fetched" in run.stdout
    record = json.loads((folder / "mirror.json").read_text())
    assert sorted(record["variants"]) == ["linux-64-cpu", "linux-64-cuda"]
    assert OLD in json.loads((folder / "conda-forge/noarch/repodata.json").read_text())["packages"]


def test_a_lock_of_the_users_own_is_mirrored_beside_the_projects(lab: Lab, folder: Path, world: Path) -> None:
    _mirror(lab, folder)
    lab.write_lock(airgap.locked(world, f"{lab.server.url}/conda-forge")[:2], path=(own := "../mine.conda-lock.yml"))
    path = lab.project / own
    made = _mirror(lab, folder, "--lock", str(path))
    assert (made["variants"], made["conda"], made["fetched"]) == (["linux-64-cpu:mine.conda-lock.yml"], 2, 0)
    text = (folder / "mirror.json").read_text()
    assert sorted(json.loads(text)["variants"]) == ["linux-64-cpu", "linux-64-cpu:mine.conda-lock.yml"]
    assert str(path.parent) not in text
    assert OLD in (folder / "conda-forge/noarch/repodata.json").read_text(), "the project's variant is still there"
    everywhere = _mirror(lab, folder, "--lock", str(path), "--all")
    assert everywhere["variants"] == made["variants"], "the platforms of that lock"
    wrong = lab.satenv("mirror", str(folder), "--lock", str(path), "--platform", "osx-arm64")
    assert wrong.returncode == 3 and "holds no solution for osx-arm64; it has linux-64" in wrong.stderr


def test_a_channel_without_a_path_lies_under_its_host(lab: Lab, folder: Path, world: Path) -> None:
    artefacts = airgap.locked(world, "https://conda.example.org")
    lab.write_lock(artefacts)
    (lab.home / "from").mkdir()
    (lab.home / "from" / "conda.example.org").symlink_to(world / "conda-forge")
    made = _mirror(lab, folder, "--from", str(lab.home / "from"))
    assert made["channels"]["conda.example.org"] == {"linux-64": 3, "noarch": 2}


def test_an_interrupted_mirror_goes_on(lab: Lab, folder: Path) -> None:
    lab.server.fail(OLD, "truncate")
    run = lab.satenv("mirror", str(folder), "--variant", "cpu")
    assert run.returncode == 4 and "truncated" in run.stderr, run.stderr
    assert not (folder / "conda-forge" / "noarch" / OLD).exists() and not (folder / "mirror.json").exists()
    lab.server.heal()
    made = _mirror(lab, folder)
    assert made["fetched"] < 6 or made["conda"] == 5
    asked = [headers.get("Range") for path, headers in lab.server.headers if path.endswith(OLD)]
    assert asked and asked[0] and not list(folder.rglob("*.partial"))


@pytest.mark.fault("stale-repodata", "environment", "the lock decides: a channel's index isn't read")
def test_a_stale_index_of_a_mirror_is_made_anew(lab: Lab, folder: Path) -> None:
    _mirror(lab, folder)
    index = folder / "conda-forge" / "noarch" / "repodata.json"
    right = index.read_bytes()
    index.write_text(right.decode().replace("old-2.1", "old-2.0"))
    (folder / "conda-forge" / "linux-64" / "repodata.json.zst").write_bytes(b"junk")
    assert _mirror(lab, folder)["fetched"] == 0
    assert index.read_bytes() == right
    assert (
        zstandard.ZstdDecompressor().decompress(
            (folder / "conda-forge" / "linux-64" / "repodata.json.zst").read_bytes()
        )
        == (folder / "conda-forge" / "linux-64" / "repodata.json").read_bytes()
    )


def test_a_package_that_is_another_one_than_locked_is_named(
    lab: Lab, folder: Path, world: Path, tmp_path: Path
) -> None:
    artefacts = airgap.locked(world, "https://conda.example.org/conda-forge")
    old = next(a for a in artefacts if a.name == "old")
    other = tmp_path / "other" / "conda-forge" / "noarch"
    other.mkdir(parents=True)
    shutil.copy(world / "conda-forge" / "noarch" / OLD, other / "old-9-0.tar.bz2")
    lab.write_lock(
        [replace(old, version="9", file_name="old-9-0.tar.bz2", url=old.url.replace("old-2.1-0", "old-9-0"))]
    )
    run = lab.satenv("mirror", str(folder), "--variant", "cpu", "--from", str(tmp_path / "other"))
    assert run.returncode == 4 and "expected old 9 0, found old 2.1 0" in run.stderr
    assert not (folder / "conda-forge" / "noarch" / "repodata.json").exists()


def test_pip_files_come_in_the_order_of_the_sources_and_what_is_there_is_not_asked_for(
    lab: Lab, folder: Path, tmp_path: Path
) -> None:
    _mirror(lab, folder)
    lab.server.heal()
    _mirror(lab, tmp_path / "second", "--from", str(folder), "--from", "channel")
    assert not lab.server.fetched(".whl") and not lab.server.fetched(".conda")
    lab.server.close()
    assert _mirror(lab, tmp_path / "second", "--from", "channel")["fetched"] == 0, "no index is needed"
    (tmp_path / "second" / "wheelhouse" / WHEEL).unlink()
    assert _mirror(lab, tmp_path / "second", "--from", "channel", "--from", str(folder))["fetched"] == 1


def test_two_wheels_of_one_name_are_no_mirror(lab: Lab, folder: Path, world: Path) -> None:
    pin = airgap.wheel_pin(world)
    lab.write_lock([], [pin, replace(pin, name="other", sha256="0" * 64)])
    run = lab.satenv("mirror", str(folder), "--variant", "cpu", "--from", str(world))
    assert run.returncode == 3 and f"{WHEEL}: the locks name two files so" in run.stderr, run.stderr


def test_a_wheel_that_the_index_lacks_is_named(lab: Lab, folder: Path, world: Path) -> None:
    pin = airgap.wheel_pin(world)
    lab.write_lock([], [replace(pin, sha256="0" * 64)])
    run = lab.satenv("mirror", str(folder), "--variant", "cpu")
    assert run.returncode == 5 and "other bytes under that name" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--platform", "linux-ppc64le"], 3, "there is no lock for linux-ppc64le"),
        (["--limit-rate", "fast"], 3, "--limit-rate 'fast': expected an amount"),
        (["--from", "/no/such/mirror"], 3, "/no/such/mirror: no such folder"),
        (["--jobs", "0"], 2, "--jobs"),
    ],
)
def test_wrong_arguments_get_one_clear_error(
    lab: Lab, folder: Path, arguments: list[str], code: int, said: str
) -> None:
    run = lab.satenv("mirror", str(folder), *arguments)
    assert run.returncode == code and said in run.stderr and "Traceback" not in run.stderr


def test_a_place_that_cannot_be_written_is_named(lab: Lab, folder: Path) -> None:
    folder.write_text("a file")
    for place in (folder, folder / "below"):
        run = lab.satenv("mirror", str(place), "--variant", "cpu")
        assert run.returncode == 6 and f"{place}: " in run.stderr and "Traceback" not in run.stderr, run.stderr
    folder.unlink()
    (folder / LINKED).mkdir(parents=True)
    run = lab.satenv("mirror", str(folder), "--variant", "cpu")
    assert run.returncode == 6 and f"{folder / LINKED}: is no file" in run.stderr, run.stderr


def test_all_means_every_lock() -> None:
    assert {v.platform for v in choose([], True, "auto")} == {"linux-64", "linux-aarch64", "osx-arm64"}
    assert [v.id for v in choose(["osx-arm64", "linux-aarch64"], False, "auto")] == [
        "osx-arm64-data",
        "linux-aarch64-cuda",
    ]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\\b", "", "a/\0"])
def test_no_path_leads_out_of_a_mirror(path: str) -> None:
    with pytest.raises(InputError, match="leads out of"):
        safe_path(path)

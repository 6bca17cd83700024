"""The channel is complete at every moment, its bytes depend on its inputs only, and what is finished isn't made twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import zstandard

from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.package.build import build as build_module
from cogvideo_sat_env.package.build.build_channels import BuildChannels
from cogvideo_sat_env.package.build.target_channel import Channel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the small recipe is for linux-64"),
]
FILES = {
    "noarch/first-1.0-*.conda", "noarch/second-1.0-*.conda",
    "linux-64/cogvideo-sat-env-1.0-cpu_0.conda", "linux-64/cogvideo-sat-env-1.0-cuda_0.conda",
}  # fmt: skip


def listing(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_built_in_order_tested_and_indexed(make, tmp_path):
    outcome = make(test=True)
    assert outcome.status == "built"
    assert [(p.name, p.status, p.tests) for p in outcome.packages] == [
        ("first", "built", "1 test passed"),
        ("second", "built", "1 test passed"),
        ("cogvideo-sat-env", "built", "contents checked"),
        ("cogvideo-sat-env", "built", "contents checked"),
    ]
    channel = tmp_path / "channel"
    for pattern in FILES:
        assert len(list(channel.glob(pattern))) == 1, pattern
    for subdir in ("noarch", "linux-64"):
        plain = (channel / subdir / "repodata.json").read_bytes()
        packed = (channel / subdir / "repodata.json.zst").read_bytes()
        assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == plain
        for name, record in json.loads(plain)["packages.conda"].items():
            assert record["sha256"] == hashlib.sha256((channel / subdir / name).read_bytes()).hexdigest()
            assert record["timestamp"] == 1577836800000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".channel.lock"]


@pytest.mark.e2e
def test_two_builds_elsewhere_are_the_same_bytes(make, finished, tmp_path):
    """Another folder to build into, another channel to build with: a package names neither."""
    shutil.copytree(tmp_path / "empty", tmp_path / "mirror")
    make("another/deeper", channels=[str(tmp_path / "mirror")])
    assert listing(finished) == listing(tmp_path / "another" / "deeper")


@pytest.mark.e2e
def test_the_time_that_packages_carry_can_be_chosen(make, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    make("two")
    index = json.loads((tmp_path / "two" / "noarch" / "repodata.json").read_text())
    assert {record["timestamp"] for record in index["packages.conda"].values()} == {1700000000000}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH='yesterday'"):
        make("three")


def test_again_nothing_is_made(make, channel):
    before = listing(channel)
    outcome = make()
    assert outcome.status == "up-to-date"
    assert {p.status for p in outcome.packages} == {"kept"}
    assert listing(channel) == before


def test_a_changed_input_makes_its_package_again_and_no_other(make, channel, small, tmp_path):
    (small / "recipe" / "patches" / "second" / "make").write_text(
        "mkdir -p $PREFIX/share; echo 2 > $PREFIX/share/second\n"
    )
    outcome = make()
    assert [(p.name, p.status) for p in outcome.packages][:2] == [("first", "kept"), ("second", "built")]
    index = json.loads((tmp_path / "channel" / "noarch" / "repodata.json").read_text())["packages.conda"]
    (second,) = (name for name in index if name.startswith("second-"))
    content = (tmp_path / "channel" / "noarch" / second).read_bytes()
    assert index[second]["sha256"] == hashlib.sha256(content).hexdigest() == outcome.packages[1].sha256


def test_a_damaged_package_is_made_again(make, channel):
    (victim,) = channel.glob("noarch/first-*.conda")
    good = victim.read_bytes()
    victim.write_bytes(good[:-1])
    assert [p.status for p in make().packages] == ["built", "kept", "kept", "kept"]
    assert victim.read_bytes() == good


@pytest.mark.parametrize(
    "script",
    ["exit 3\n", "mkdir -p $PREFIX/share; echo two > $PREFIX/share/wrong\n"],
    ids=["the build fails", "its test fails"],
)
def test_a_failure_leaves_the_channel_whole_and_keeps_what_is_finished(make, small, tmp_path, script):
    make(variants=["cpu"])
    before = listing(tmp_path / "channel")
    recipe = small / "recipe" / "patches"
    good = (recipe / "second" / "make").read_text()
    (recipe / "first" / "text").write_text("uno\n")
    (recipe / "second" / "make").write_text(script)
    with pytest.raises(SatenvError, match=r"second 1\.0: ") as failure:
        make(test=True)
    log = (failure.value.remedy or "").partition("the whole log: ")[2].partition(";")[0]
    assert Path(log).is_file()
    assert listing(tmp_path / "channel") == before
    (recipe / "second" / "make").write_text(good)
    assert [(p.name, p.status) for p in make().packages][:2] == [("first", "kept"), ("second", "kept")]
    assert (tmp_path / "channel" / "linux-64" / "cogvideo-sat-env-1.0-cuda_0.conda").is_file()


def test_an_index_that_fails_leaves_the_channel_whole(make, channel, small, monkeypatch):
    before = listing(channel)
    (small / "recipe" / "patches" / "first" / "text").write_text("uno\n")

    def fail(folder: Path) -> None:
        raise VerificationError(f"{folder}: can't be indexed", None)

    monkeypatch.setattr("cogvideo_sat_env.package.build.target_channel._index", fail)
    with pytest.raises(VerificationError, match="can't be indexed"):
        make()
    assert listing(channel) == before


@pytest.mark.e2e
def test_what_else_is_in_the_channel_stays(make, tmp_path):
    make("other", variants=["cpu"])
    (other,) = (tmp_path / "other" / "noarch").glob("first-*.conda")
    mine = tmp_path / "channel" / "noarch"
    mine.mkdir(parents=True)
    shutil.copy(other, mine / other.name.replace("first-1.0", "first-0.9"))
    make()
    names = json.loads((tmp_path / "channel" / "noarch" / "repodata.json").read_text())["packages.conda"]
    assert len([name for name in names if name.startswith("first-")]) == 2


@pytest.mark.e2e
def test_one_variant_of_the_metapackage(make):
    assert [p.build for p in make(variants=["cuda"]).packages][2:] == ["cuda_0"]
    assert [p.build for p in make("b", variants=["linux-64-cpu"]).packages][2:] == ["cpu_0"]


def test_not_tested_is_said_and_made_up_for(make, channel):
    assert {p.tests for p in make().packages} == {"not tested"}
    outcome = make(test=True)
    assert [p.status for p in outcome.packages] == ["kept"] * 4
    assert outcome.packages[0].tests == "1 test passed"


def test_another_build_into_the_same_channel_is_refused(make, tmp_path):
    with Channel(tmp_path / "channel").hold(), pytest.raises(PrefixError, match="another run is at work on it"):
        make()


def test_without_room_for_a_build_that_is_said(make, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    with pytest.raises(PrefixError, match=r"channel: 100\.0 MB .* needed for a build; only 3\.0 MB free"):
        make()
    assert not (tmp_path / "channel").exists()


def test_a_folder_of_something_else_is_refused(make, tmp_path):
    (tmp_path / "channel").mkdir()
    (tmp_path / "channel" / "thesis.tex").write_text("x")
    with pytest.raises(PrefixError, match="not a channel"):
        make()
    assert listing(tmp_path / "channel") == {"thesis.tex": b"x"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"platform": "osx-64"}, r"nothing is built for osx-64; there is: linux-64, .*eva-decord takes its place"),
        ({"platform": "lunix-64"}, r"nothing is built for lunix-64"),
        ({"variants": ["rocm"]}, r"there is no variant 'rocm' for linux-64; there is: cuda, cpu, "),
        ({"variants": ["osx-arm64-data"]}, r"there is no variant 'osx-arm64-data' for linux-64"),
        ({"wheelhouse": Path("/not/there")}, r"/not/there: no such folder"),
        ({"channels": ["/not/there"]}, r"/not/there: no such folder; expected a conda channel"),
        ({"channels": ["/dev"]}, r"/dev: not an indexed channel; expected noarch/repodata\.json there"),
    ],
)
def test_bad_input_is_one_clear_error(make, tmp_path, options, message):
    with pytest.raises(InputError, match=message) as failure:
        make(**options)
    assert failure.value.remedy
    assert not (tmp_path / "channel").exists()


def test_a_broken_recipe_is_named(make, small):
    (small / "recipe" / "recipe.yaml").write_text("outputs: [{package: {nam: x}}]\n")
    with pytest.raises(InputError, match=r"recipe\.yaml: "):
        make()


def test_where_decord_has_no_wheel_the_alternative_is_said(make):
    outcome = make(platform="linux-aarch64", variants=["cuda"])
    assert "decord2" in outcome.alternatives["decord"]
    assert "decord2 is built in its place" in outcome.to_text()


def test_the_json_answer_has_what_scripts_need(make, channel, tmp_path):
    answer = json.loads(json.dumps(make().to_json()))
    assert answer["url"] == (tmp_path / "channel").as_uri()
    for package in answer["packages"]:
        file = tmp_path / "channel" / package["file"]
        assert (package["size"], package["sha256"]) == (
            file.stat().st_size,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )


def test_a_failed_build_leaves_no_channel(make, small, tmp_path):
    (small / "recipe" / "patches" / "first" / "text").unlink()
    with pytest.raises(SatenvError, match=r"first 1\.0: "):
        make()
    assert not (tmp_path / "channel").exists()


def test_without_a_channel_pytorch_is_fetched_for_tests_only_when_asked(make, small, monkeypatch):
    """The index has PyTorch with CUDA alone, 4 GB: what needs it says so, the rest is tested."""
    recipe = small / "recipe" / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("requirements: {run: [first]}", "requirements: {run: [first, pytorch]}")
    )
    empty = (small.parent / "empty").as_uri()
    fetched = []
    monkeypatch.setattr(build_module, "find_base", lambda *_: BuildChannels((empty,), wheels=True))
    monkeypatch.setattr(build_module, "whole_environment_to_fetch", lambda _: "100 wheels, 4.1 GB")
    monkeypatch.setattr(build_module, "whole_environment", lambda *_: fetched.append(1) or empty)

    def tests(**options) -> dict[str, str]:
        return {item.name: item.tests for item in make(test=True, platform=current_platform(), **options).packages}

    said = tests()
    assert said["first"] == "1 test passed" and not fetched
    words = "1 test not run: they need 100 wheels, 4.1 GB, of the package index; --all-tests fetches them"
    assert said["second"] == words
    assert tests() == said and not fetched
    assert tests(all_tests=True)["second"] == "1 test not run: wheels don't provide pytorch" and fetched

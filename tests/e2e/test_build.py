"""`satenv build` for real: from the files of the package index to a channel, twice the same, as conda-build would do it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from cogvideo_sat_env.base.child import child_environment
from cogvideo_sat_env.base.paths import cache_dir, current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.base.wheel_patch import apply, patches_of, read_patch
from cogvideo_sat_env.install import activation
from cogvideo_sat_env.package.build.build_channels import find_base
from conftest import satenv
from e2e.conftest import copy_project

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the wheels source is locked for linux-64"),
]
PROJECT = Path(__file__).parents[2]

# the calls of conda_build/_rattler_build/compat.py, in its order and with its arguments for `conda build -c … recipe/`
CONDA_BUILD = """
import json, os, sys
from pathlib import Path
from rattler_build import RattlerBuildError
from rattler_build.progress import SimpleProgressCallback
from rattler_build.render import RenderConfig
from rattler_build.stage0 import MultiOutputRecipe, Stage0Recipe
from rattler_build.tool_config import PlatformConfig, ToolConfiguration
from rattler_build.variant_config import VariantConfig

recipe_dir, output_dir, subdir, with_tests, *channels = sys.argv[1:]
variants = VariantConfig()
for name in ("conda_build_config.yaml", "variants.yaml"):
    if os.path.isfile(os.path.join(recipe_dir, name)):  # `conda render` overlooks them: it must do without
        variants = variants.merge(VariantConfig.from_file(os.path.join(recipe_dir, name)))
recipe = Stage0Recipe.from_file(Path(os.path.join(recipe_dir, "recipe.yaml")))
assert isinstance(recipe, MultiOutputRecipe)
assert not any("staging" in output.to_dict() for output in recipe.outputs)
platform = PlatformConfig(target_platform=subdir, build_platform=subdir, host_platform=subdir, experimental=False)
built, failed = [], []
for variant in recipe.render(variants, RenderConfig(platform=platform, extra_context={})):
    name = variant.recipe.package.name
    tools = ToolConfiguration(
        test_strategy="native" if name in with_tests.split() else "skip", skip_existing="none",
        noarch_build_platform=subdir, channel_priority="strict",
    )
    try:
        result = variant.run_build(
            tool_config=tools, output_dir=output_dir, channels=channels, progress_callback=SimpleProgressCallback(),
            no_build_id=True, package_format="conda", no_include_recipe=False,
        )
        built.append(str(result.packages[0]))
    except RattlerBuildError as error:
        failed.append(f"{name}: {error}")
print("\\0" + json.dumps({"built": built, "failed": failed}))
sys.stdout.flush()
os._exit(0)
"""


def hashes(channel: Path) -> dict[str, str]:
    """Return the SHA-256 of every package and index."""
    files = [*channel.glob("*/*.conda"), *channel.glob("*/repodata.json*")]
    return {f.relative_to(channel).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def contents(package: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Return the files of a .conda archive."""
    found = {}
    with zipfile.ZipFile(package) as archive:
        for name in (n for n in archive.namelist() if n.endswith(".tar.zst")):
            plain = zstandard.ZstdDecompressor().stream_reader(archive.read(name)).read()
            with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    found[member.name] = (member, stream.read() if stream else b"")
    return found


def named(channel: Path, name: str) -> Path:
    """Return the only package of that name."""
    (path,) = (p for p in channel.glob("*/*.conda") if p.name.rsplit("-", 2)[0] == name)
    return path


def test_every_piece_is_built_and_passes_the_recipes_tests(built):
    channel, answer = built
    assert answer["status"] == "built"
    tests = {f"{p['name']} {p['build'].partition('_')[0]}": p["tests"] for p in answer["packages"]}
    for name, count in {
        "python-ninja": "2 tests", "webdataset": "2 tests", "deepspeed": "1 test", "swissarmytransformer": "1 test",
        "peft": "1 test",
    }.items():  # fmt: skip
        (said,) = (text for key, text in tests.items() if key.startswith(f"{name} "))
        assert said == f"{count} passed", tests
    assert tests["cogvideo-sat-env cuda129"] == "contents checked"
    assert "1 test not run: wheels don't " in tests["cogvideo-sat-env cpu"]
    assert {p["file"] for p in answer["packages"]} == {f for f in hashes(channel) if f.endswith(".conda")}


def test_a_read_only_copy_without_an_index_builds_the_same_bytes(built, checkout, tmp_path):
    house, copy = tmp_path / "wheelhouse", tmp_path / "copy"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-d", str(house),
         "-r", str(PROJECT / "locks" / "pip-linux-64.txt")],
        check=True,
    )  # fmt: skip
    copy_project(checkout, copy)
    for path in sorted(copy.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        run = satenv(
            "build", "--out", str(tmp_path / "other" / "channel"), "--no-test", "--wheelhouse", house.as_uri()[7:],
            SATENV_PROJECT=str(copy), PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0",
        )  # fmt: skip
    finally:
        for path in copy.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
    assert run.returncode == 0, run.stderr
    assert hashes(tmp_path / "other" / "channel") == hashes(built[0])


def test_nothing_of_the_machine_is_in_a_package(built):
    for package in built[0].glob("*/*.conda"):
        files = contents(package)
        for name, (member, content) in files.items():
            assert not name.endswith((".pyc", "direct_url.json", "/REQUESTED")), (package.name, name)
            assert member.mtime == 1577836800 and member.uid == 0, (package.name, name)
            for path in ("_placehold_placehold", built[0].parent, cache_dir()):
                assert str(path).encode() not in content, (package.name, name, path)
        assert any(name.startswith("info/licenses/") for name in files), package.name
        for name in (n for n in files if n.endswith(".dist-info/RECORD")):
            recorded = {row.rsplit(",", 2)[0] for row in files[name][1].decode().splitlines()}
            site = name.split(".dist-info/")[0].rpartition("/")[0]
            there = {n.removeprefix(f"{site}/") for n in files if n.startswith(f"{site}/")}
            assert there == {n for n in recorded if not n.startswith("..")}, package.name


def test_the_metapackage_ships_the_command_the_doctor_and_the_same_activation(built):
    (package,) = built[0].glob("linux-64/cogvideo-sat-env-*-cuda129_*.conda")
    files = contents(package)
    for name, script in activation.load().scripts.items():
        assert files[name][1] == script
    assert json.loads(files["etc/conda/env_vars.d/cogvideo-sat-env.json"][1]) == {
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"
    }
    assert files["bin/cogvideo-sat-env"][0].mode == 0o755
    assert "lib/cogvideo-sat-env/cogvideo_sat_env/doctor/runner.py" in files
    assert all(member.mode in (0o644, 0o755) for member, _ in files.values())


def test_the_patches_are_in_the_package_and_its_record(built):
    files = contents(named(built[0], "swissarmytransformer"))
    builder = "site-packages/sat/ops/ops_builder/builder.py"
    assert b"PyTorch sees no GPU" in files[builder][1]
    record = files["site-packages/SwissArmyTransformer-0.4.12.dist-info/RECORD"][1].decode()
    (row,) = (row for row in record.splitlines() if row.startswith("sat/ops/ops_builder/builder.py,"))
    assert row.endswith(f",{len(files[builder][1])}")


def test_programs_run_beside_any_python(built):
    files = contents(named(built[0], "deepspeed"))
    assert files["python-scripts/deepspeed"][1].startswith(b"#!/bin/sh\n'''exec'")
    assert b"from deepspeed.launcher.runner import main" in files["python-scripts/deepspeed"][1]


def test_conda_builds_own_calls_build_it_too(built, checkout, tmp_path):
    base = find_base(PROJECT, [], Silent())
    run = subprocess.run(
        [sys.executable, "-c", CONDA_BUILD, str(checkout / "recipe"), str(tmp_path / "croot"), "linux-64",
         "python-ninja", *base.channels],
        capture_output=True, text=True, check=False, env=child_environment(),
    )  # fmt: skip
    assert "\0" in run.stdout, run.stdout[-3000:] + run.stderr[-3000:]
    answer = json.loads(run.stdout.rpartition("\0")[2])
    assert answer["failed"] == []
    theirs = {Path(path).name: contents(Path(path)) for path in answer["built"]}
    ours = {path.name: contents(path) for path in built[0].glob("*/*.conda")}
    assert set(theirs) == set(ours)
    for name, files in ours.items():  # theirs has the recipe, the time and the channels as well
        same = {n: data for n, (_, data) in files.items() if n not in ("info/index.json", "info/about.json")}
        assert same == {n: theirs[name][n][1] for n in same}, name


def unpatched(good: Path, name: str, front: Path) -> None:
    """Put a package of the good environment into `front` as it is published: with the recipe's patches taken out."""
    (site,) = good.glob("lib/python3*/site-packages")
    for patch in reversed(patches_of(PROJECT / "recipe", name)):
        for path, hunks in read_patch(patch).items():
            top = Path(path).parts[0]
            if not (front / top).exists():
                shutil.copytree(site / top, front / top)
            shift, back = 0, []
            for start, body in hunks:
                back.append((start + shift, [{"+": "-", "-": "+"}.get(line[0], line[0]) + line[1:] for line in body]))
                shift += sum({"+": 1, "-": -1}.get(line[0], 0) for line in body)
            (front / path).write_text(apply((front / path).read_text(), back, patch.name))


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        ("swissarmytransformer", ["shards_are_named", "capabilities_have_two_digits", "mismatch_is_an_error",
                                  "random_state_is_loaded", "cpm_kernels_is_optional"]),
        ("deepspeed", ["no_compiler_is_one_line"]),
    ],
)  # fmt: skip
def test_without_its_patches_a_piece_fails_its_tests(good_prefix, tmp_path, name, failed):
    """In the package they pass, as `built` shows; that a failing test ends the build: tests/package/test_engine.py."""
    front, script = tmp_path / "front", tmp_path / "tests" / f"{name}.py"
    unpatched(good_prefix, name, front)
    script.parent.mkdir()
    shutil.copy(PROJECT / "recipe" / "tests" / script.name, script)
    run = subprocess.run(
        [good_prefix / "bin" / "python", script], capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(front)},
    )  # fmt: skip
    said = [line.split()[1].rstrip(":") for line in run.stdout.splitlines() if line.startswith("FAILED ")]
    assert (run.returncode, said) == (1, failed), run.stdout + run.stderr


@pytest.mark.parametrize(
    ("platform", "reader", "library"),
    [("linux-aarch64", "decord2", "libdecord.so"), ("osx-arm64", "eva-decord", "libdecord.dylib")],
)
def test_another_platform_gets_its_reader_of_videos(built, checkout, tmp_path, platform, reader, library):
    shutil.copytree(built[0], tmp_path / "channel")  # one channel for all platforms: noarch packages are there
    run = satenv("build", "--out", str(tmp_path / "channel"), "--platform", platform, "--no-test", "--json",
                 SATENV_PROJECT=str(checkout))  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    answer = json.loads(run.stdout)
    assert reader in answer["alternatives"]["decord"]
    assert {p["status"] for p in answer["packages"] if p["file"].startswith("noarch/")} == {"kept"}
    package = named(tmp_path / "channel", reader)
    assert package.parent.name == platform
    files = contents(package)
    assert any(name.endswith(f"site-packages/decord/{library}") for name in files), sorted(files)[:40]
    index = json.loads(files["info/index.json"][1])
    assert "python 3.11.*" in index["depends"] and any(d.startswith("numpy") for d in index["depends"])


def test_a_wrong_file_in_the_wheelhouse_is_named_with_both_hashes(tmp_path):
    house = tmp_path / "house"
    house.mkdir()
    with zipfile.ZipFile(house / "ninja-1.13.2-py3-none-manylinux2014_x86_64.whl", "w") as wheel:
        wheel.writestr("ninja-1.13.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: ninja\nVersion: 1.13.2\n")
    run = satenv("build", "--out", str(tmp_path / "channel"), "--wheelhouse", str(house), "--no-test", "-q")
    assert run.returncode == 4, run.stderr
    found = hashlib.sha256((house / os.listdir(house)[0]).read_bytes()).hexdigest()
    assert "expected SHA-256 65a24341b5ac09fcadcc37082660be40a94174e51a937fabf6e2cae26225fa2c" in run.stderr
    assert f"found {found}" in run.stderr
    assert not (tmp_path / "channel").exists()

"""Wheels become a conda channel that solves, installs and runs; nothing unverified, nothing twice, nothing half-made."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base.child import child_environment
from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.source.wheels import channel as channel_module
from cogvideo_sat_env.source.wheels import convert as convert_module
from cogvideo_sat_env.source.wheels.channel import WheelChannel, build_channel
from cogvideo_sat_env.source.wheels.interpreter import probe as convert_probe
from cogvideo_sat_env.spec.environment import Environment, read_environment
from source.wheels.conftest import PYTHON, Made, keep, pinned
from source.wheels.wheelindex import Index, make_wheel

pytestmark = pytest.mark.slow

TAG = f"py{sys.version_info[0]}{sys.version_info[1]}"
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
PACKAGES = 12  # ten files of the lock, ffmpeg, python


def build(environment: Environment, lock: Path, cache: Path) -> WheelChannel:
    return build_channel(environment, lock, python=PYTHON, cache=cache, progress=Silent())


def start(environment: Environment, lock: Path, cache: Path) -> subprocess.Popen[str]:
    """Start the same in a process of its own, leader of its group; it prints converted and reused."""
    code = (
        "import sys; from pathlib import Path\n"
        "from cogvideo_sat_env.spec.environment import read_environment\n"
        "from cogvideo_sat_env.base.progress import Silent\n"
        "from cogvideo_sat_env.source.wheels.channel import build_channel\n"
        "if __name__ == '__main__':\n"
        "    c = build_channel(read_environment(Path(sys.argv[1])), Path(sys.argv[2]), python=Path(sys.executable),\n"
        "                      cache=Path(sys.argv[3]), progress=Silent())\n"
        "    print(c.converted, c.reused)\n"
    )
    script = cache.parent / "run.py"  # spawned workers import the main module again: it must be a file
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script), str(environment.path), str(lock), str(cache)],
        env=child_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def install(channel: WheelChannel, prefix: Path) -> None:
    """Link the channel's solution with rattler."""
    code = (
        "import asyncio, json, os, sys\n"
        "from rattler import Channel, Subdir, install, solve\n"
        "url, subdir, prefix, specs = json.load(sys.stdin)\n"
        "async def main():\n"
        "    records = await solve([Channel(url)], specs, platforms=[Subdir(subdir), Subdir('noarch')])\n"
        "    await install(records, prefix, cache_dir=prefix + '-cache', show_progress=False)\n"
        "asyncio.run(main())\n"
        "os._exit(0)\n"
    )
    specs = [f"{item.name} =={item.version} {item.build}" for item in channel.artefacts]
    request = json.dumps([channel.path.as_uri(), channel.artefacts[0].subdir, str(prefix), specs])
    subprocess.run([sys.executable, "-c", code], input=request, text=True, check=True)


def run(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, cwd="/").stdout


@pytest.fixture
def channel(made: Made) -> WheelChannel:
    """The session's channel: read only."""
    return made.channel


def test_the_channel_holds_the_lock_under_the_names_of_the_spec(channel: WheelChannel) -> None:
    assert {item.name: item.build for item in channel.artefacts} == {
        "pytorch": f"cuda128_{TAG}_0",
        "python": "running_0",
        **dict.fromkeys(["einops", "ffmpeg"], f"{TAG}_0"),  # one has C headers, the other leads into site-packages
        **dict.fromkeys(
            ["deepspeed", "fsspec", "imageio-ffmpeg", "nvidia-a-cu12", "nvidia-b-cu12", "tensorboardx", "tqdm",
             "typing_extensions"],
            "py3_0",
        ),
    }  # fmt: skip
    for item in channel.artefacts:
        data = (channel.path / item.subdir / item.file_name).read_bytes()
        assert convert_module.hashlib.sha256(data).hexdigest() == item.sha256
        assert len(data) == item.size
        assert item.url == (channel.path / item.subdir / item.file_name).as_uri()


def test_the_specs_are_those_of_the_environment_file_with_the_running_python(channel: WheelChannel) -> None:
    assert channel.specs == (
        f"python {sys.version_info[0]}.{sys.version_info[1]}.*", "pytorch >=2.5.1,<2.11 cuda*", "einops >=0.8", "ffmpeg",
        "deepspeed >=0.15.3", "tensorboardx <3dev0",
    )  # fmt: skip


def test_what_no_wheel_provides_is_listed_and_not_faked(channel: WheelChannel) -> None:
    assert [(item.name, item.spec) for item in channel.not_provided] == [("cuda-nvcc", "cuda-nvcc")]
    assert "ptxas" in channel.not_provided[0].reason
    assert "cuda-nvcc" not in {item.name for item in channel.artefacts}


def test_dependencies_come_from_the_wheels(channel: WheelChannel) -> None:
    depends = {item.name: item.depends for item in channel.artefacts}
    python = f"python {sys.version_info[0]}.{sys.version_info[1]}.*"
    assert depends["pytorch"] == ("nvidia-a-cu12 ==1.0", "nvidia-b-cu12", python)
    assert depends["tensorboardx"][0] == "python >=3.10"
    assert depends["tensorboardx"][1] in ("typing_extensions 4.*,>=4.1", "typing_extensions >=4.1,4.*")
    assert depends["ffmpeg"] == ("imageio-ffmpeg ==0.8.1", python)
    assert depends["python"] == ()


def test_a_second_run_converts_nothing_and_asks_no_index(
    made: Made, environment: Environment, small_lock: Path, index: Index
) -> None:
    again = build(environment, small_lock, made.cache)
    assert (made.channel.converted, made.channel.reused) == (PACKAGES, 0)
    assert (again.converted, again.reused) == (0, PACKAGES)
    assert again.artefacts == made.channel.artefacts
    assert index.requests == []


def test_conversion_gives_the_same_bytes_twice(
    made: Made, channel: WheelChannel, environment: Environment, small_lock: Path, tmp_path: Path
) -> None:
    files = made.cache.glob("artefacts/*/*/*")
    other = build(environment, small_lock, keep(tmp_path / "elsewhere" / "cache", *files))
    assert other.converted == PACKAGES
    assert {item.name: item.sha256 for item in other.artefacts} == {
        item.name: item.sha256 for item in channel.artefacts
    }


def another_python(environment: Environment, lock: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Environment, Path]:
    """Have this interpreter pass for the next minor version of itself; return spec and lock for it."""
    real = convert_probe(PYTHON)
    minor = f"3.{int(real.minor.split('.')[1]) + 1}"
    versions = {"python_version": minor, "python_full_version": f"{minor}.0"}
    other = replace(real, version=f"{minor}.0", environment={**real.environment, **versions})
    monkeypatch.setattr(channel_module, "probe", lambda _: other)
    path = lock.with_name(lock.name.replace(real.tag, other.tag))
    path.write_text(lock.read_text().replace(f"# python: {real.minor}", f"# python: {minor}"))
    return environment, path


def test_another_python_converts_only_what_depends_on_it(
    environment: Environment, small_lock: Path, warm_cache: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {item.name: item for item in build(environment, small_lock, warm_cache).artefacts}
    again = build(*another_python(environment, small_lock, monkeypatch), warm_cache)
    assert (again.converted, again.reused) == (4, PACKAGES - 4)
    changed = {item.name for item in again.artefacts if item.sha256 != first[item.name].sha256}
    assert changed == {"python", "pytorch", "einops", "ffmpeg"}
    assert [path for path in index.requests if path.startswith("/files/")] == []


def test_a_wheel_whose_requirements_depend_on_the_python_is_converted_for_each(
    two: Environment, tmp_path: Path
) -> None:
    tqdm = make_wheel(tmp_path, "tqdm", "4.71")
    markers = ("tqdm; python_version >= '3.12'", "tqdm>=4; python_full_version >= '3.10.1'", "tqdm")
    built = {}
    for number, marker in enumerate(markers):
        fsspec = make_wheel(tmp_path, "fsspec", f"{number}", requires=(marker,))
        lock = pinned(two, tmp_path / "out", fsspec, tqdm)
        artefacts = build(two, lock, keep(tmp_path / "cache", fsspec, tqdm)).artefacts
        built[marker] = next(item.build for item in artefacts if item.name == "fsspec")
    assert list(built.values()) == [f"{TAG}_0", f"{TAG}_0", "py3_0"]


PATCH = """\
What it is for.

--- a/tqdm/__init__.py
+++ b/tqdm/__init__.py
@@ -1 +1,2 @@
 first = 1
+second = 2
"""


def test_patches_of_the_recipe_are_in_the_package_and_its_build_string(
    two: Environment, fsspec: Path, tmp_path: Path
) -> None:
    tqdm = make_wheel(tmp_path, "tqdm", "4.71", files={"tqdm/__init__.py": "first = 1\n"})
    lock, cache = pinned(two, tmp_path / "out", fsspec, tqdm), keep(tmp_path / "cache", fsspec, tqdm)
    plain = build(two, lock, cache)
    patch = tmp_path / "recipe" / "patches" / "tqdm" / "0001-second.patch"
    patch.parent.mkdir(parents=True)
    patch.write_text(PATCH)

    def patched() -> WheelChannel:
        return build_channel(two, lock, python=PYTHON, cache=cache, progress=Silent(), recipe=tmp_path / "recipe")

    channel = patched()
    assert (channel.converted, channel.patched) == (1, {"tqdm": ["0001-second.patch"]}) and plain.patched == {}
    (name,) = (item.build for item in channel.artefacts if item.name == "tqdm")
    assert re.fullmatch(r"py3_p[0-9a-f]{7}_0", name)
    install(channel, tmp_path / "prefix")
    module = tmp_path / "prefix" / SITE / "tqdm" / "__init__.py"
    assert module.read_text() == "first = 1\nsecond = 2\n"
    record = (module.parents[1] / "tqdm-4.71.dist-info" / "RECORD").read_text()
    digest = base64.urlsafe_b64encode(hashlib.sha256(module.read_bytes()).digest()).decode().rstrip("=")
    assert f"tqdm/__init__.py,sha256={digest}," in record
    assert patched().converted == 0
    patch.write_text(PATCH.replace("second = 2", "second = 3"))
    assert patched().converted == 1  # another patch, another package
    patch.write_text(PATCH.replace("first = 1", "first = 7"))
    with pytest.raises(VerificationError, match=r"0001-second\.patch: tqdm/__init__\.py: line 1 is not what"):
        patched()


def test_a_channel_that_lost_files_is_made_again(environment: Environment, small_lock: Path, warm_cache: Path) -> None:
    channel = build(environment, small_lock, warm_cache)

    def served() -> list[str]:
        """The channel's files, without the solutions kept beside them: other builds of this cache have theirs."""
        return sorted(path.name for path in channel.path.rglob("*") if not path.name.startswith("solution-"))

    before = served()
    for gone in ("noarch/repodata.json", f"{channel.artefacts[0].subdir}/{channel.artefacts[3].file_name}"):
        (channel.path / gone).unlink()
        assert build(environment, small_lock, warm_cache).artefacts == channel.artefacts
        assert served() == before


def test_a_damaged_download_is_fetched_again(
    channel: WheelChannel, environment: Environment, small_lock: Path, warm_cache: Path, index: Index
) -> None:
    for path in list(warm_cache.rglob("einops*")):
        if path.suffix == ".whl":
            path.write_bytes(b"damaged")
        elif path.parent.parent.name == "packages":
            shutil.rmtree(path.parent)
    again = build(environment, small_lock, warm_cache)
    assert (again.converted, again.reused) == (1, PACKAGES - 1)
    assert {item.sha256 for item in again.artefacts} == {item.sha256 for item in channel.artefacts}
    assert [path for path in index.requests if path.startswith("/files/")] == ["/files/einops-0.8.2-py3-none-any.whl"]


def test_a_download_that_is_there_is_not_fetched_again(
    environment: Environment, small_lock: Path, warm_cache: Path, index: Index
) -> None:
    shutil.rmtree(warm_cache / "packages")
    assert build(environment, small_lock, warm_cache).converted == PACKAGES
    assert index.requests == []


def test_a_layer_serves_downloads_and_converted_packages(
    environment: Environment, small_lock: Path, warm_cache: Path, tmp_path: Path, index: Index,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SATENV_CACHE_LAYERS", str(warm_cache))
    damaged = next((warm_cache / "packages").rglob("einops*.conda"))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    first = build(environment, small_lock, tmp_path / "mine")
    assert (first.converted, first.reused) == (1, PACKAGES - 1)  # the damaged one is converted from the layer's wheel
    assert index.requests == []
    (warm_cache / "packages").chmod(0o777)
    shutil.copytree(warm_cache / "built", tmp_path / "another" / "built")  # the stand-in of an sdist can't be built
    alone = build(environment, small_lock, tmp_path / "another")
    assert alone.converted == PACKAGES and index.requests == []  # downloads alone, each with the lock's hash


def test_a_damaged_package_is_made_again(environment: Environment, small_lock: Path, warm_cache: Path) -> None:
    for path in (warm_cache / "packages").rglob("einops*.conda"):
        path.unlink()
    again = build(environment, small_lock, warm_cache)
    assert (again.converted, again.reused) == (1, PACKAGES - 1)


def test_bytes_that_changed_in_the_cache_do_not_get_into_a_new_channel(
    environment: Environment, small_lock: Path, warm_cache: Path
) -> None:
    shutil.rmtree(warm_cache / "channels")
    path = next((warm_cache / "packages").rglob("tqdm*.conda"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the comment length of the zip archive
    path.write_bytes(data)
    with pytest.raises(VerificationError, match=r"tqdm|can't be indexed"):
        build(environment, small_lock, warm_cache)
    assert not any((warm_cache / "channels").iterdir())


def test_a_file_with_another_hash_is_refused_with_both_hashes(
    environment: Environment, small_lock: Path, tmp_path: Path, index: Index
) -> None:
    good = (index.folder / "tqdm-4.70.1-py3-none-any.whl").read_bytes()
    make_wheel(index.folder, "tqdm", "4.70.1", files={"tqdm/__init__.py": "evil = True\n"})
    bad = (index.folder / "tqdm-4.70.1-py3-none-any.whl").read_bytes()
    expected, found = (convert_module.hashlib.sha256(data).hexdigest() for data in (good, bad))
    with pytest.raises(VerificationError, match=rf"(?s)tqdm.*{expected}.*{found}"):
        build(environment, small_lock, tmp_path / "cache")
    assert not (tmp_path / "cache" / "channels").exists()


def test_a_file_that_the_index_no_longer_has_is_named(
    environment: Environment, small_lock: Path, tmp_path: Path, index: Index
) -> None:
    (index.folder / "tqdm-4.70.1-py3-none-any.whl").unlink()
    with pytest.raises(SourceError, match="tqdm"):
        build(environment, small_lock, tmp_path / "cache")


@pytest.fixture
def two(tmp_path: Path) -> Environment:
    """An environment file that asks for two of the small index's projects."""
    path = tmp_path / "two.yml"
    path.write_text("channels: [conda-forge]\ndependencies: [python 3.11.*, fsspec, tqdm]\n")
    return read_environment(path)


@pytest.fixture
def fsspec(tmp_path: Path) -> Path:
    """An honest wheel."""
    return make_wheel(tmp_path, "fsspec", "2026.9.0")


def test_two_packages_with_one_path_are_refused(two: Environment, fsspec: Path, tmp_path: Path) -> None:
    tqdm = make_wheel(tmp_path, "tqdm", "4.71", files={"tqdm/__init__.py": "", "fsspec/__init__.py": "mine now\n"})
    lock = pinned(two, tmp_path / "out", fsspec, tqdm)
    with pytest.raises(VerificationError, match=rf"{SITE}/fsspec/.*: in both fsspec and tqdm"):
        build(two, lock, keep(tmp_path / "cache", fsspec, tqdm))


def test_a_wheel_that_reaches_outside_is_refused(two: Environment, fsspec: Path, tmp_path: Path) -> None:
    tqdm = make_wheel(tmp_path, "tqdm", "4.71", files={"../../../../../evil.py": "", "tqdm/__init__.py": ""})
    lock = pinned(two, tmp_path / "out", fsspec, tqdm)
    with pytest.raises(VerificationError, match=r"tqdm.*malformed wheel"):
        build(two, lock, keep(tmp_path / "cache", fsspec, tqdm))
    assert not list(tmp_path.rglob("evil.py"))


@pytest.mark.parametrize("path", ["tqdm-4.71.data/data/conda-meta/history", "tqdm-4.71.data/scripts/python"])
def test_a_wheel_that_writes_what_is_not_its_own_is_refused(
    two: Environment, fsspec: Path, tmp_path: Path, path: str
) -> None:
    tqdm = make_wheel(tmp_path, "tqdm", "4.71", files={path: "evil", "tqdm/__init__.py": ""})
    lock = pinned(two, tmp_path / "out", fsspec, tqdm)
    with pytest.raises(
        VerificationError, match=r"tqdm: writes into conda-meta/history|bin/python: in both python and tqdm"
    ):
        build(two, lock, keep(tmp_path / "cache", fsspec, tqdm))


def test_a_lock_for_another_python_is_refused(environment: Environment, small_lock: Path, tmp_path: Path) -> None:
    small_lock.write_text(small_lock.read_text().replace(f"# python: {TAG[2]}.{TAG[3:]}", "# python: 3.9"))
    with pytest.raises(InputError, match=r"with Python 3\.9; this is"):
        build(environment, small_lock, tmp_path / "cache")


def test_a_spec_that_the_lock_lacks_is_refused_before_any_download(
    environment: Environment, small_lock: Path, tmp_path: Path, index: Index
) -> None:
    environment.path.write_text(environment.path.read_text().replace("  - ffmpeg\n", "  - ffmpeg\n  - kornia\n"))
    index.requests.clear()
    with pytest.raises(InputError, match="has no kornia"):
        build(read_environment(environment.path), small_lock, tmp_path / "cache")
    assert index.requests == []


@pytest.mark.e2e
def test_killed_in_the_middle_the_next_run_completes(
    environment: Environment, small_lock: Path, downloaded: Path
) -> None:
    cache = downloaded
    process = start(environment, small_lock, cache)
    deadline = time.monotonic() + 60
    while not list(cache.glob("tmp/*/*/stage")) and time.monotonic() < deadline:  # a conversion has begun
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()  # it alone: its workers have to notice
    process.wait()
    process.stdout.close()
    assert list(cache.glob("tmp/*/*/stage"))
    assert not list(cache.glob("channels/*"))
    channel = build(environment, small_lock, cache)
    assert channel.converted + channel.reused == PACKAGES
    assert len(channel.artefacts) == PACKAGES
    while group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_lives(process.pid)


def test_what_a_failed_run_finished_is_reused(
    two: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = make_wheel(tmp_path, "fsspec", "1", files={"fsspec/__init__.py": "", "fsspec/data": os.urandom(100_000)})
    tqdm = make_wheel(tmp_path, "tqdm", "4.70")
    evil = make_wheel(tmp_path, "tqdm", "4.71", files={"tqdm/__init__.py": "", "/evil.py": ""})
    good, bad = pinned(two, tmp_path / "good", fsspec, tqdm), pinned(two, tmp_path / "bad", fsspec, evil)
    cache = keep(tmp_path / "cache", fsspec, tqdm, evil)
    # one worker takes the biggest first: fsspec is finished when tqdm fails
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(VerificationError, match="malformed wheel"):
        build(two, bad, cache)
    again = build(two, good, cache)
    assert (again.converted, again.reused) == (2, 1)


def group_lives(group: int) -> bool:
    """Whether a process of this group still runs; in a container without init its zombie may stay for ever."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(found) == group and state != "Z":
            return True
    return False


@pytest.mark.e2e
def test_two_runs_at_once_convert_everything_once(environment: Environment, small_lock: Path, downloaded: Path) -> None:
    processes = [start(environment, small_lock, downloaded) for _ in range(2)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
    assert answers == [f"0 {PACKAGES}", f"{PACKAGES} 0"]


def test_the_installed_prefix_runs(channel: WheelChannel, tmp_path: Path) -> None:
    prefix = tmp_path / "a rather long prefix with blanks" / ("deep" * 30)
    install(channel, prefix)
    python = prefix / "bin" / "python"
    # Python is at home in the prefix and sees only its modules
    answer = run(python, "-c", "import sys; print(sys.prefix); print([p for p in sys.path if 'site-packages' in p])")
    assert answer.splitlines() == [str(prefix), str([str(prefix / SITE)])]
    # entry points and `#!python` scripts run whatever the prefix's length
    assert run(prefix / "bin" / "einops-say").strip() == f"einops at {prefix}"
    assert run(prefix / "bin" / "einops-old").strip() == f"einops at {prefix}"
    # the program that a wheel ships
    assert run(prefix / "bin" / "ffmpeg", "-version").startswith("ffmpeg version n9.0.2")
    assert [item.version for item in channel.artefacts if item.name == "ffmpeg"] == ["9.0.2"]
    # schemes, modes, hidden files, the shared namespace
    assert (prefix / "share/man/man1/einops.1").read_text() == "manual\n"
    assert list(prefix.glob("include/site/*/einops/einops.h"))
    assert os.access(prefix / SITE / "einops/tool.sh", os.X_OK)
    assert (prefix / SITE / "nvidia/a/lib/.keep").read_text() == "kept"
    assert not (prefix / SITE / "nvidia/__init__.py").exists()
    assert (
        run(python, "-c", "import nvidia.a, nvidia.b, torch, deepspeed; print(deepspeed.built)").strip() == "1577836800"
    )
    # metadata: pip's view, RECORD right, licences packed
    code = (
        "import base64, hashlib, importlib.metadata as m\n"
        "for d in m.distributions():\n"
        "    for f in d.files:\n"
        "        data = f.locate().read_bytes()\n"
        "        if f.hash:\n"
        "            assert base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=') == f.hash.value, f\n"
        "    print(d.metadata['Name'], d.read_text('INSTALLER').strip())\n"
    )
    listed = run(python, "-I", "-c", code).splitlines()
    assert len(listed) == PACKAGES - 2
    assert {line.split()[1] for line in listed} == {"conda"}
    record = json.loads(next((prefix / "conda-meta").glob("einops-*.json")).read_text())
    assert record["license"] == "MIT"


def test_bytecode_is_there_and_an_edited_module_still_counts(channel: WheelChannel, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    install(channel, prefix)
    module = prefix / SITE / "torch" / "__init__.py"  # of a noarch package whoever installs it makes the bytecode
    assert list((module.parent / "__pycache__").glob("__init__.*.pyc"))
    stat = module.stat()
    module.unlink()  # a hard link into the package cache
    module.write_text("y = 2\n")
    os.utime(module, (stat.st_atime, stat.st_mtime))  # same time, same size: only the content tells
    assert run(prefix / "bin" / "python", "-c", "import torch; print(torch.y)").strip() == "2"


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no system Python")
def test_a_distributions_own_python_is_at_home_too(tmp_path: Path) -> None:
    """Debian patches the places where modules lie; in a prefix only the prefix's count."""
    from cogvideo_sat_env.source.wheels.interpreter import lay_out_python, probe

    python = probe(Path("/usr/bin/python3"))
    prefix = tmp_path / "prefix"
    lay_out_python(python, prefix)
    (prefix / python.site_packages / "only_here.py").write_text("")
    answer = run(
        prefix / "bin" / "python", "-c",
        "import only_here, sys, sysconfig; print(sys.prefix); print(sysconfig.get_path('purelib')); print(sys.version_info[:2])",
    )  # fmt: skip
    major, minor = python.minor.split(".")
    assert answer.splitlines() == [str(prefix), str(prefix / python.site_packages), f"({major}, {minor})"]
    assert "/usr/lib/python3/dist-packages" not in run(prefix / "bin" / "python", "-c", "import sys; print(sys.path)")


@pytest.mark.e2e
def test_real_files_of_the_committed_lock_convert(tmp_path: Path) -> None:
    """Small projects of the committed lock, from the index that this machine has configured for pip."""
    from cogvideo_sat_env.base.paths import project_root
    from cogvideo_sat_env.source.wheels.interpreter import probe
    from cogvideo_sat_env.source.wheels.lockfile import default_lock

    committed = default_lock(project_root() / "locks", probe(PYTHON))
    chosen = ("einops", "ninja", "omegaconf", "pyyaml", "beartype")
    lock = tmp_path / committed.name
    lines = committed.read_text().splitlines(keepends=True)
    lock.write_text("".join(line for line in lines if line.startswith(("#", *(f"{name}==" for name in chosen)))))
    spec = tmp_path / "environment.yml"
    spec.write_text(
        "channels: [conda-forge]\ndependencies: [python 3.11.*, einops, omegaconf >=2.3.0, beartype, {pip: [ninja]}]\n"
    )
    channel = build(read_environment(spec), lock, tmp_path / "cache")
    assert channel.converted == len(chosen) + 1
    install(channel, tmp_path / "prefix")
    assert run(tmp_path / "prefix" / "bin" / "ninja", "--version").startswith("1.")
    assert (
        run(tmp_path / "prefix" / "bin" / "python", "-c", "import einops, omegaconf, yaml, beartype; print(1)").strip()
        == "1"
    )

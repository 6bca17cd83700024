"""`satenv lock --with-channel`: nothing but the metapackage, from a built channel; no pip, every SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import channelserver
import packages
from cogvideo_sat_env.base.errors import InputError, SolveError, SourceError, VerificationError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.fetch import reachable
from cogvideo_sat_env.lock.read import read_lock
from cogvideo_sat_env.package.lock_metapackage import METAPACKAGE, MetapackageOptions, lock_with_channel

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
SERVED = "https://conda.example.org/cogvideo"


def toy(channel: Path, *builds: str, extra: tuple[str, ...] = ()) -> Path:
    """A channel with the metapackage in these builds, and what they need."""
    packages.make_package(packages.Spec("piece", "1.0", noarch="generic"), channel, "noarch")
    for build in builds:
        depends = ["piece >=1", *extra, *(["__cuda >=12"] if build.startswith("cuda") else [])]
        packages.make_package(packages.Spec(METAPACKAGE, "0.1.0", build, depends=depends), channel, "linux-64")
    for subdir in ("noarch", "linux-64"):
        (channel / subdir).mkdir(exist_ok=True)
    packages.index(channel)
    return channel


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    return toy(tmp_path / "channel", "cuda129_100", "cpu_0")


def lock(channel: object, **options: object) -> list[str]:
    return lock_with_channel(
        PROJECT, str(channel), MetapackageOptions(**{"override_channels": True, **options}), Silent()
    )


def test_a_site_locks_from_its_one_channel(channel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = lock(channel, only=["linux-64-cuda", "linux-64-cpu"], channel_url=SERVED + "/")
    assert [Path(path).name for path in changed] == [
        "cogvideo-sat-env-linux-64-cuda.conda-lock.yml",
        "cogvideo-sat-env-linux-64-cuda.lock",
        "cogvideo-sat-env-linux-64-cpu.conda-lock.yml",
        "cogvideo-sat-env-linux-64-cpu.lock",
    ]
    for variant, build in {"cuda": "cuda129_100", "cpu": "cpu_0"}.items():
        made = read_lock(tmp_path / f"cogvideo-sat-env-linux-64-{variant}.conda-lock.yml", "linux-64")
        assert made.pip == () and made.channels == (SERVED,)
        assert {artefact.name: artefact.build for artefact in made.conda} == {METAPACKAGE: build, "piece": "h0_0"}
        for artefact in made.conda:
            archive = channel / artefact.subdir / artefact.file_name
            assert artefact.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
        lines = (tmp_path / f"cogvideo-sat-env-linux-64-{variant}.lock").read_text().splitlines()
        assert lines[lines.index("@EXPLICIT") + 1 :] == [
            f"{SERVED}/{a.subdir}/{a.file_name}#sha256:{a.sha256}"
            for a in sorted(made.conda, key=lambda a: a.name == METAPACKAGE)
        ]


def test_the_same_channel_gives_the_same_bytes_and_changes_nothing_twice(channel, tmp_path):
    out = tmp_path / "mine.conda-lock.yml"
    assert [Path(path).name for path in lock(channel, out=out)] == ["mine.conda-lock.yml", "mine.lock"]
    text = out.read_bytes()
    assert channel.as_uri() in text.decode()
    assert lock(channel.as_uri(), out=out) == []
    assert out.read_bytes() == text


def test_a_channel_without_that_device_is_named(tmp_path):
    with pytest.raises(SolveError, match=r"took cogvideo-sat-env cpu_0; expected a build for cuda"):
        lock(toy(tmp_path / "channel", "cpu_0"), out=tmp_path / "conda-lock.yml")
    assert not (tmp_path / "conda-lock.yml").exists()


def test_what_cannot_be_solved_is_named_and_nothing_is_written(tmp_path):
    channel = toy(tmp_path / "channel", "cpu_0", extra=("nowhere-to-be-found >=3",))
    with pytest.raises(SolveError, match="nowhere-to-be-found") as caught:
        lock(channel, only=["linux-64-cpu"], out=tmp_path / "conda-lock.yml")
    for noise in ('"success"', "CalledProcessError", "self.invoke", "Traceback"):
        assert noise not in caught.value.message
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob("*.yml"))


def test_a_channel_that_disagrees_with_its_files_is_refused(channel, tmp_path):
    archive = channel / "noarch" / "piece-1.0-h0_0.conda"
    archive.write_bytes(archive.read_bytes()[:-1] + b"\1")
    with pytest.raises(VerificationError, match=r"piece-1\.0-h0_0\.conda: expected sha256"):
        lock(channel, out=tmp_path / "conda-lock.yml")


def test_what_makes_no_sense_is_named(channel, tmp_path):
    for options, message in (
        ({"only": ["linux-64-rocm"]}, "no variant 'linux-64-rocm'"),
        ({"only": ["linux-64-cuda", "linux-64-cpu"], "out": tmp_path / "conda-lock.yml"}, "--out names one file"),
        ({"out": tmp_path / "mine.yml"}, "ends with conda-lock.yml"),
        ({"out": tmp_path / "no" / "conda-lock.yml"}, "no such folder"),
        ({"out": PROJECT / "conda-lock.yml"}, "the project's own locks"),
        ({"out": PROJECT / "locks" / "x.conda-lock.yml"}, "the project's own locks"),
    ):
        with pytest.raises(InputError, match=message):
            lock(channel, **options)
    with pytest.raises(InputError, match="no such folder"):
        lock(tmp_path / "nothing")


def test_the_command_takes_and_refuses_its_options(channel, tmp_path):
    def satenv(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cogvideo_sat_env", "lock", *arguments], capture_output=True, text=True, check=False,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        )  # fmt: skip

    done = satenv("--with-channel", str(channel), "--override-channels", "--only", "linux-64-cpu", "--json")
    assert done.returncode == 0, done.stderr
    assert [Path(path).suffix for path in json.loads(done.stdout)["changed"]] == [".yml", ".lock"]
    for refused in (["--out", "x"], ["--with-channel", str(channel), "--update", "piece"]):
        assert CliRunner().invoke(cli, ["lock", *refused]).exit_code == 2


@pytest.mark.parametrize("kind", ["refused", "silent", "404", "503", "half"])
def test_a_channel_that_does_not_answer_is_a_source_that_is_away(channel, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(reachable, "PROBE_SECONDS", 0.5)
    with channelserver.serving(tmp_path) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{server.url}/channel"
        if kind == "refused":
            server.close()
        elif kind == "silent":  # accepts, and never says a word
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/channel"
        elif kind == "half":  # one that loses its nerve after the first questions
            for name in ("repodata.json", "repodata.json.zst"):
                server.fail(name, "503")
                (channel / "linux-64" / name).rename(channel / "linux-64" / f"was-{name}")
            (channel / "noarch" / "repodata_shards.msgpack.zst").write_bytes(b"")
        else:
            for name in ("repodata.json", "repodata.json.zst"):
                server.fail(name, kind)
        with pytest.raises(SourceError) as caught:
            lock(url, out=tmp_path / "mine.conda-lock.yml")
    assert url in caught.value.message and caught.value.remedy and caught.value.exit_code == 5
    assert not list(tmp_path.glob("mine*"))


@pytest.mark.parametrize("written", ["http://HOST/t/tk-99/c", "http://HOST/t/$SITE_TOKEN/c"])
def test_a_lock_holds_no_secret_of_the_channel(channel, tmp_path, monkeypatch, written):
    if "$" in written:
        monkeypatch.setenv("SITE_TOKEN", "tk-99")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root" / "t" / "tk-99").mkdir(parents=True)
    shutil.copytree(channel, tmp_path / "root" / "t" / "tk-99" / "c")
    with channelserver.serving(tmp_path / "root") as server:
        place = written.replace("HOST", server.url.removeprefix("http://"))
        changed = lock(place, only=["linux-64-cpu"], channel_url=None)
    texts = [Path(path).read_text() for path in changed]
    assert len(texts) == 2 and not any("tk-99" in text for text in texts)
    made = read_lock(tmp_path / changed[0], "linux-64")
    assert all(a.url.startswith(f"{made.channels[0]}/") and "/c/" in a.url for a in made.conda)

"""`satenv create` as a user types it, against a channel of generated packages on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import channelserver
import packages
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.create.create import CreateRequest, as_made
from cogvideo_sat_env.create.source_plan import choose_plan
from cogvideo_sat_env.install.job import Options
from cogvideo_sat_env.source.source import Source
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.variants import choose_variant, read_variants

PROJECT = Path(__file__).parents[2]
LOCK = "locks/linux-64-cpu-conda-lock.yml"
SAMPLE = ["prefixed", "linked", "x264", "data"]

pytestmark = pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64")


@dataclass
class Machine:
    """A project whose lock is of generated packages, a server that has them, and places of its own."""

    project: Path
    server: channelserver.ChannelServer
    home: Path

    def satenv(self, *arguments: str, cwd: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cogvideo_sat_env", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "PYTHONPATH": str(PROJECT / "src"),
                "SATENV_PROJECT": str(self.project),
                "SATENV_CACHE": str(self.home / "cache"),
                "PIP_INDEX_URL": "http://127.0.0.1:9/index",
                **variables,
            },
        )

    def create(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.satenv("create", "--variant", "cpu", "--no-doctor", *arguments, **variables)

    @property
    def prefix(self) -> Path:
        return self.home / ".conda" / "envs" / "cogvideo-sat"

    def write_lock(self, artefacts: list[CondaArtefact]) -> None:
        entries = [
            {
                "name": a.name,
                "version": a.version,
                "manager": "conda",
                "platform": "linux-64",
                "dependencies": {},
                "url": a.url,
                "hash": {"md5": a.md5, "sha256": a.sha256},
                "category": "main",
                "optional": False,
            }
            for a in artefacts
        ]
        metadata = {"content_hash": {"linux-64": "0" * 64}, "channels": [], "platforms": ["linux-64"], "sources": []}
        path = self.project / LOCK
        path.write_text(yaml.safe_dump({"version": 1, "metadata": metadata, "package": entries}))


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mirror")
    for spec in packages.sample_specs():
        if spec.name in SAMPLE:
            packages.make_package(spec, root / "conda-forge", current_platform())
    packages.index(root / "conda-forge")
    return root


@pytest.fixture
def machine(channel: Path, project: Path, tmp_path: Path) -> Iterator[Machine]:
    with channelserver.serving(channel) as server:
        machine = Machine(project, server, tmp_path / "home")
        machine.home.mkdir()
        machine.write_lock(packages.artefacts(channel / "conda-forge", f"{server.url}/conda-forge"))
        yield machine


def test_auto_takes_the_channels_when_they_answer(machine):
    run = machine.create()
    assert run.returncode == 0, run.stderr
    assert "Source: the lock's channels, which answer" in run.stderr
    assert "created from channel, 4 packages" in run.stdout
    assert f"conda activate {machine.prefix}" in run.stdout
    assert (machine.prefix / "share/data/a.txt").read_text() == "a\n"
    assert (machine.prefix / "bin/prefixed").read_text() == f"#!/bin/sh\necho {machine.prefix}/share\n"
    assert (machine.prefix / "lib/liblinked.so").resolve().name == "liblinked.so.1"
    assert "\x1b[" not in run.stdout + run.stderr, "colours and bars belong on a terminal"


def test_again_it_says_so_without_asking_the_network(machine):
    assert machine.create().returncode == 0
    machine.server.heal()
    run = machine.create()
    assert run.returncode == 0
    assert run.stdout == f"{machine.prefix} is up to date (4 packages, from channel); nothing to do\n"
    assert machine.server.requests == []


def made_with_python(prefix: Path) -> tuple[Path, dict]:
    """Pretend that the environment holds the host's Python, as one made from wheels does."""
    path = prefix / "etc/cogvideo-sat-env/receipt.json"
    found = json.loads(path.read_text())
    found["packages"].append(
        {"name": "python", "version": "3.11.7", "build": "running_0", "sha256": "0" * 64, "url": ""}
    )
    path.write_text(json.dumps(found))
    (prefix / "conda-meta" / "python-3.11.7-running_0.json").write_text("{}")
    return path, found


def test_an_environment_whose_python_is_gone_is_not_up_to_date(machine):
    assert machine.create().returncode == 0
    made_with_python(machine.prefix)
    (machine.prefix / "bin" / "python").symlink_to(sys.executable)
    assert "is up to date (5 packages" in machine.create().stdout
    (machine.prefix / "bin" / "python").unlink()
    (machine.prefix / "bin" / "python").symlink_to(machine.home / "removed" / "python3.11")
    run = machine.create()
    assert run.returncode == 6
    assert "1 of its files are missing or changed, e.g. bin/python" in run.stderr


def test_another_python_is_not_answered_from_digests(machine):
    assert machine.create().returncode == 0
    run = machine.create("--source", "wheels", "--variant", "auto", "--python", "/no/such/python")
    assert run.returncode == 3 and "/no/such/python: can't be run" in run.stderr


def test_a_changed_lock_is_not_up_to_date_and_replace_makes_it_so(machine, channel):
    assert machine.create().returncode == 0
    machine.write_lock(packages.artefacts(channel / "conda-forge", f"{machine.server.url}/conda-forge")[:3])
    run = machine.create()
    assert run.returncode == 6
    assert "make it anew with --replace" in run.stderr
    assert machine.create("--replace").returncode == 0
    assert len(list((machine.prefix / "conda-meta").glob("*.json"))) == 3


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_serves_the_locks_artefacts(machine, channel, kind):
    artefacts = packages.artefacts(channel / "conda-forge", "https://conda.anaconda.org/conda-forge")
    machine.write_lock(artefacts)
    where = str(channel) if kind == "folder" else machine.server.url
    run = machine.create("--source", f"mirror={where}", "-p", str(machine.home / "my-env"), "--json")
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout)
    assert outcome["status"] == "created"
    assert outcome["bytes"] == sum(a.size for a in artefacts)
    record = json.loads(next((machine.home / "my-env" / "conda-meta").glob("x264-*.json")).read_text())
    assert record["url"].startswith("https://conda.anaconda.org/conda-forge/linux-64/x264-1!164")


@pytest.mark.slow
def test_a_wrong_hash_names_file_hashes_and_source_and_makes_nothing(machine):
    machine.server.fail("linked-1.0-h0_0.conda", "flip")
    run = machine.create("--source", "channel")
    assert run.returncode == 4, run.stderr
    assert "linked-1.0-h0_0.conda" in run.stderr
    assert run.stderr.count("sha256") >= 1 or run.stderr.count("SHA-256") >= 1
    assert machine.server.url in run.stderr
    assert not machine.prefix.exists()
    machine.server.heal()
    assert machine.create("--source", "channel").returncode == 0


def test_a_file_that_the_channel_lacks_is_named(machine):
    machine.server.fail("linked-1.0-h0_0.conda", "404")
    run = machine.create("--source", "channel")
    assert run.returncode == 5, run.stderr
    assert "linked-1.0-h0_0.conda" in run.stderr and "404" in run.stderr
    assert not machine.prefix.exists()


@pytest.mark.slow
def test_an_unreachable_channel_says_which_and_why(machine):
    machine.server.close()
    run = machine.create("--source", "channel")
    assert run.returncode == 5
    assert machine.server.url in run.stderr


def test_auto_without_channels_and_without_wheels_says_both(machine):
    """Where this machine decided for the CPU: asked for by name, wheels don't stand for it (the next test)."""
    machine.server.close()
    for path in (machine.project / "locks").glob("wheels-*.txt"):
        path.unlink()
    said: list[str] = []
    progress = SimpleNamespace(say=said.append)
    environment = read_environment(machine.project / "environment.yml")
    variant = choose_variant(read_variants(), "linux-64", "cpu")
    with pytest.raises(SourceError, match=r"no wheels for this machine: .*no wheel lock for linux-64"):
        choose_plan(machine.project, environment, variant, Source("auto"), None, progress, guessed=True)
    assert any(f"{machine.server.url}/conda-forge: Connection refused" in line for line in said)
    assert any("Variant: wheels, not linux-64-cpu: PyTorch on a package index is its CUDA build" in s for s in said)


@pytest.mark.fault("cpu-by-wheels", "error", "wheels don't stand in for a CPU variant that was asked for")
def test_a_cpu_environment_that_was_asked_for_is_never_made_of_cuda_wheels(machine):
    """8 GB of another variant aren't what `--variant cpu` means, also where no channel answers."""
    machine.server.close()
    run = machine.create()
    assert run.returncode == 5
    assert f"{machine.server.url}/conda-forge: Connection refused" in run.stderr
    assert "the CPU variant is on conda channels only" in run.stderr and "leave --variant out" in run.stderr
    assert "Traceback" not in run.stderr and not machine.prefix.exists()
    assert not list((machine.home / "cache").glob("files/*"))


@pytest.mark.fault("questions-first", "error", "prefix and platform are looked at before anything is fetched")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-p", "/etc"], 6, "/etc: is not empty; it is left alone"),
        (["-p", "/etc/passwd"], 6, "is a file, not a directory"),
        (["-p", "/proc/no"], 6, "/proc/no can't be made"),
        (["--platform", "linux-aarch64"], 3, "this machine is linux-64"),
    ],
)
def test_what_can_not_be_is_refused_before_wheels_are_fetched_or_converted(machine, arguments, code, said):
    run = machine.satenv("create", "--no-doctor", "--source", "wheels", *arguments)
    assert run.returncode == code and said in run.stderr, run.stderr
    assert not (machine.home / "cache").exists()


def test_a_tilde_that_the_shell_left_is_the_home(machine, tmp_path):
    run = machine.satenv("create", "--variant", "cpu", "--no-doctor", "--prefix=~/x", cwd=str(tmp_path))
    assert run.returncode == 0 and (machine.home / "x/conda-meta/history").is_file(), run.stderr
    run = machine.satenv(
        "create", "--variant", "cpu", "--no-doctor", "-n", "y", SATENV_ENVS="~/envs", cwd=str(tmp_path)
    )
    assert run.returncode == 0 and (machine.home / "envs/y/conda-meta/history").is_file(), run.stderr
    assert not (tmp_path / "~").exists()


def test_a_foreign_folder_is_never_touched(machine):
    machine.prefix.mkdir(parents=True)
    (machine.prefix / "thesis.tex").write_text("mine")
    run = machine.create()
    assert run.returncode == 6
    assert "it is left alone" in run.stderr
    assert [path.name for path in machine.prefix.iterdir()] == ["thesis.tex"]


def test_a_missing_lock_is_named(machine):
    (machine.project / LOCK).unlink()
    run = machine.create("--source", "channel")
    assert run.returncode == 3
    assert f"{machine.project / LOCK}: no such file" in run.stderr


def test_a_broken_lock_is_named_with_its_line(machine):
    (machine.project / LOCK).write_text("version: 1\nmetadata: {platforms: [linux-64]}\npackage:\n- name: [\n")
    run = machine.create("--source", "channel")
    assert run.returncode == 3
    assert f"{machine.project / LOCK}:5:" in run.stderr or f"{machine.project / LOCK}:4:" in run.stderr
    assert "Traceback" not in run.stderr


def test_another_platform_is_refused(machine):
    run = machine.satenv("create", "--platform", "osx-arm64", "--no-doctor", "--source", "channel")
    assert run.returncode == 3
    assert "the lock is for osx-arm64; this machine is linux-64" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "mirrors=x"], "expected auto, channel, wheels or mirror=WHERE"),
        (["--source", "mirror="], "expected auto, channel, wheels or mirror=WHERE"),
        (["--source", "mirror=/no/such/folder"], "/no/such/folder: no such folder"),
        (["-n", "a/b"], "not a name for an environment"),
        pytest.param(
            ["-p", "/b/my env"],
            "'/b/my env' holds a space",
            marks=pytest.mark.fault(
                "path-spaces",
                "error",
                "refused: torch links run-time extensions with unquoted paths, so DeepSpeed fails",
            ),
        ),
        (["-n", "a", "-p", "/b"], "-p and -n exclude each other"),
        (["--platform", "linux-ppc64le"], "there is no lock for linux-ppc64le with cpu"),
    ],
)
def test_wrong_arguments_get_one_clear_error(machine, arguments, expected):
    run = machine.create(*arguments)
    assert run.returncode == 3
    assert expected in run.stderr
    assert "Traceback" not in run.stderr


def test_errors_are_json_for_scripts(machine):
    run = machine.create("--platform", "linux-ppc64le", "--json")
    assert run.returncode == 3
    assert json.loads(run.stdout)["error"].startswith("there is no lock for linux-ppc64le")


def test_wheels_have_no_cpu_variant(machine):
    run = machine.create("--source", "wheels")
    assert run.returncode == 3
    assert "the wheels source has no CPU variant" in run.stderr


def test_a_repair_takes_python_and_source_from_the_receipt(tmp_path: Path) -> None:
    """An environment made with `--python` of another version is repaired on that one, without naming it again."""
    found = {"source": "wheels", "variant": "wheels", "lock": "wheels-linux-64-py312.txt", "python": sys.executable}
    asked = CreateRequest(options=Options(repair=True))
    made = as_made(asked, tmp_path, found)
    assert (made.sources, made.python, made.lock) == (["wheels"], Path(sys.executable), None)
    assert as_made(replace(asked, python=Path("/mine")), tmp_path, found).python == Path("/mine")
    assert as_made(asked, tmp_path, {**found, "python": str(tmp_path / "gone")}).python is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)  # a receipt of an older version doesn't name it
    older = {key: value for key, value in found.items() if key != "python"}
    assert as_made(asked, tmp_path, older).python == Path(os.path.realpath(sys.executable))

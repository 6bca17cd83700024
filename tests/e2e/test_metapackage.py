"""From recipe to user: build the channel, publish and serve it, install into a real environment, prove it, remove it.

The environment is made from wheels; what no wheel provides (compilers, CUDA's headers) comes from a test-only channel of
hollow packages. The real pieces, SwissArmyTransformer above all, are those that recipe/ builds.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from rattler.shell import ActivationVariables, Shell, activate

import condauser
import packages
from channelserver import serving
from cogvideo_sat_env.base.errors import SolveError
from cogvideo_sat_env.base.paths import cache_dir, current_platform
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.install import activation
from cogvideo_sat_env.install.job import Job, Plan
from cogvideo_sat_env.install.transaction import install_prefix
from cogvideo_sat_env.lock.read import read_lock
from cogvideo_sat_env.lock.solve import solve
from cogvideo_sat_env.source.source import Source
from cogvideo_sat_env.source.wheels.names import divide
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.pypi_names import load_names
from cogvideo_sat_env.spec.reasons import explain
from cogvideo_sat_env.spec.variants import read_variants
from conftest import satenv
from install.test_activation import environment, run, scripts, shells

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).parents[2]
NAME = "cogvideo-sat-env"
PIECES = ("decord", "deepspeed", "peft", "python-ninja", "swissarmytransformer", "webdataset")
HOLLOW = "hollow test package of test_metapackage.py: a name, a version, no file"
MACHINE = {"__unix": "0", "__linux": "5.10", "__glibc": "2.28", "__archspec": "1 x86_64"}


@dataclass(frozen=True)
class Site:
    """What a cluster has: the published channel at a URL, the built folder, the other channels, a cache."""

    url: str
    built: Path
    hollow: Path
    newer: Path
    cache: Path


@pytest.fixture(scope="module")
def site(built, tmp_path_factory):
    """The channel built by `satenv build`, published by `satenv publish`, served on loopback."""
    root = tmp_path_factory.mktemp("metapackage")
    served = root / "served" / "cogvideo"
    published = satenv("publish", str(built[0]), str(served), "--yes", "--json")
    assert published.returncode == 0, published.stdout + published.stderr
    states = {item["file"]: item["state"] for item in json.loads(published.stdout)["packages"]}
    assert set(states.values()) == {"new"}
    hollow, newer = root / "hollow", root / "newer"
    _make_hollow(hollow, newer)
    with serving(root / "served") as server:
        yield Site(f"{server.url}/cogvideo", built[0], hollow, newer, root / "cache")


def _make_hollow(hollow: Path, newer: Path) -> None:
    _, missing = divide(read_environment(PROJECT / "environment.yml"), load_names())
    versions = {"cuda-version": "12.9", "gxx_linux-64": "14.3.0", "sysroot_linux-64": "2.28"}
    for item in missing:
        _hollow(hollow, item.name, versions.get(item.name, "12.9.1"))
    _hollow(newer, "torchvision", "0.26.0")
    _hollow(newer, "webdataset", "1.0.2")
    packages.index(hollow)
    packages.index(newer)


def _hollow(channel: Path, name: str, version: str) -> None:
    spec = packages.Spec(name, version, "hollow_0", noarch="generic", summary=HOLLOW)
    packages.make_package(spec, channel, "noarch")


@dataclass(frozen=True)
class Installed:
    """A real environment with the metapackage in it; `first` and `second` say what each step changed."""

    prefix: Path
    wheels: str
    first: dict
    second: dict


@pytest.fixture(scope="module")
def installed(site, tmp_path_factory):
    """An environment made from wheels; then the metapackage; then the pieces as recipe/ builds them."""
    prefix = tmp_path_factory.mktemp("installed") / "sat"
    made = satenv("create", "--source", "wheels", "-p", str(prefix), "--no-doctor", "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    if not (prefix / "bin" / "python3.11").exists():
        pytest.skip("the metapackage is for Python 3.11, which this machine hasn't")
    record = json.loads(next((prefix / "conda-meta").glob("pytorch-*.json")).read_text())
    wheels = record["url"].rsplit("/", 2)[0]
    # conda-forge's ninja is the program alone; here it is the program of PyPI's wheel
    ninja = packages.Binary((prefix / "bin" / "ninja").read_bytes(), executable=True)
    packages.make_package(
        packages.Spec("ninja", "1.13.2", "wheel_0", {"bin/ninja": ninja}, summary="PyPI's ninja, for tests"),
        site.hollow, current_platform(),
    )  # fmt: skip
    packages.index(site.hollow)
    channels = [site.url, wheels, site.hollow.as_uri()]
    virtual = {**MACHINE, "__cuda": "12.9"}
    first = condauser.ask(prefix, channels, [NAME], virtual, cache=site.cache)
    assert "error" not in first, first["error"]
    second = condauser.ask(prefix, channels, PIECES, virtual, cache=site.cache)
    assert "error" not in second, second["error"]
    return Installed(prefix, wheels, first, second)


def records(prefix: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
    return {record["name"]: record for record in found}


def test_installing_it_moves_nothing_that_is_there(installed, site):
    hollow = {path.name.rsplit("-", 2)[0] for path in site.hollow.glob("noarch/*.conda")}
    assert {name for name, _, _ in installed.first["linked"]} == {NAME, *hollow}
    assert installed.first["unlinked"] == []
    assert records(installed.prefix)[NAME]["build"].startswith("cuda129_")


def test_the_pieces_are_those_of_the_recipe(installed, site):
    assert {name for name, _, _ in installed.second["linked"]} == {*PIECES, "ninja"}
    found = records(installed.prefix)
    for name in (NAME, *PIECES):
        assert found[name]["url"].startswith(site.url + "/"), name
    for name in ("cuda-version", "cuda-nvcc", "gxx_linux-64"):
        assert found[name]["url"].startswith(site.hollow.as_uri()) and found[name]["files"] == []


def doctor(prefix: Path, *arguments: str, **variables: str) -> dict:
    """Run the command of the metapackage inside the prefix; nothing may fail."""
    child = subprocess.run(
        [str(prefix / "bin" / NAME), "doctor", "--json", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip
    report = json.loads(child.stdout)
    failed = [(r["id"], r["finding"]) for r in report["results"] if r["status"] == "failed"]
    assert (child.returncode, failed, report["prefix"]) == (0, [], str(prefix)), child.stderr
    return report


TRAINING = ("training.zero2", "training.checkpoint", "data.webdataset")


def test_the_doctor_inside_passes(installed):
    """Training goes without a compiler: what DeepSpeed compiles takes a minute, and `created` has it compiled."""
    for arguments, variables, ids in (
        (["--level", "quick"], {}, {"imports.together", "video.decord"}),
        ([part for check in TRAINING for part in ("--only", check)], {"CXX": "no-compiler"}, set(TRAINING)),
    ):
        report = doctor(installed.prefix, *arguments, **variables)
        assert ids <= {r["id"] for r in report["results"] if r["status"] == "passed"}


def test_its_files_are_the_projects_own(installed):
    for name, content in activation.load().scripts.items():
        assert (installed.prefix / name).read_bytes() == content
    inside = installed.prefix / "lib" / NAME / "cogvideo_sat_env"
    for name in ("data/breakage.yml", "data/requirements.yml", "spec/reasons.py"):
        assert (inside / name).read_bytes() == (PROJECT / "src" / "cogvideo_sat_env" / name).read_bytes()


@pytest.mark.parametrize(
    ("asked", "bound"),
    [("torchvision >=0.26", "torchvision >=0.20.1,<0.26"), ("webdataset >=1", "webdataset <0.2.88")],
)
def test_a_violated_bound_is_refused_and_its_reason_is_in_reach(installed, site, asked, bound):
    before = records(installed.prefix)
    channels = [site.newer.as_uri(), site.url, installed.wheels, site.hollow.as_uri()]
    refused = condauser.ask(installed.prefix, channels, [asked], {**MACHINE, "__cuda": "12.9"}, cache=site.cache)
    assert bound in refused["error"], refused
    assert records(installed.prefix) == before
    name = asked.split()[0]
    told = subprocess.run(
        [str(installed.prefix / "bin" / NAME), "why", name], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (0, explain(name).to_text()), told.stderr
    assert bound.rpartition(",")[2].split()[-1] in told.stdout


def pick(site: Site, frozen_urls: list[str], *specs: str, **virtual: str) -> dict[str, dict]:
    found = solve([site.url, *frozen_urls], [NAME, *specs], "linux-64", {**MACHINE, **virtual})
    return {record["name"]: record for record in found}


def test_the_solver_takes_cuda_where_there_is_a_driver_and_cpu_where_there_is_none(site, frozen_urls):
    cuda, cpu = pick(site, frozen_urls, __cuda="12.9"), pick(site, frozen_urls)
    assert cuda[NAME]["build"].startswith("cuda129_") and cuda["pytorch"]["build"].startswith("cuda129_")
    assert cpu[NAME]["build"].startswith("cpu_") and cpu["pytorch"]["build"].startswith("cpu_")
    assert {"cuda-nvcc", "libcublas-dev"} <= set(cuda) and not {"cuda-nvcc", "libcublas", "cudnn"} & set(cpu)
    for found in (cuda, cpu):
        assert {found[name]["channel"].rstrip("/") for name in PIECES} == {site.url}


def test_a_driver_that_is_too_old_is_refused_with_the_reason(site, frozen_urls):
    with pytest.raises(SolveError, match=r"__cuda >=12"):
        pick(site, frozen_urls, __cuda="11.8")


def test_another_cuda_beside_the_cpu_variant_is_refused_by_a_constraint(site, frozen_urls):
    with pytest.raises(SolveError, match=r"cuda-version 12\.9\.\*"):
        pick(site, frozen_urls, "cuda-version 13.*")


def test_a_site_locks_nothing_but_the_metapackage_from_the_channel(site, frozen, tmp_path):
    for variant in read_variants():
        if variant.platform != "linux-64":
            continue
        out = tmp_path / f"{variant.id}.conda-lock.yml"
        # the folder before it is served, or the URL when it is
        where = [str(site.built), "--channel-url", site.url] if variant.device == "cuda" else [site.url]
        arguments = ["--frozen", str(frozen), "--only", variant.id, "--out", str(out)]
        made = satenv("lock", "--with-channel", *where, *arguments)
        assert made.returncode == 0, made.stderr
        lock = read_lock(out, "linux-64")
        assert lock.pip == ()
        found = {artefact.name: artefact for artefact in lock.conda}
        assert found[NAME].build.startswith(variant.device)
        assert {found[name].channel for name in (NAME, *PIECES)} == {site.url}
        lines = (tmp_path / f"{variant.id}.lock").read_text().splitlines()
        assert sorted(lines[lines.index("@EXPLICIT") + 1 :]) == sorted(
            f"{artefact.url}#sha256:{artefact.sha256}" for artefact in lock.conda
        )


def mirror_of(channels: list[Path], target: Path) -> None:
    """Copy channels into one; a package that an earlier one has is not taken from a later one."""
    names: set[str] = set()
    for channel in channels:
        here = set()
        for index in channel.glob("*/repodata.json"):
            subdir = index.parent.name
            data = json.loads(index.read_text())
            (target / subdir).mkdir(parents=True, exist_ok=True)
            merged = target / subdir / "repodata.json"
            empty = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}}
            kept = json.loads(merged.read_text()) if merged.exists() else empty
            for file, record in data["packages.conda"].items():
                here.add(record["name"])
                if record["name"] not in names:
                    kept["packages.conda"][file] = record
                    (target / subdir / file).symlink_to(channel / subdir / file)
            merged.write_text(json.dumps(kept))
        names |= here


def test_a_site_with_one_mirror_locks_and_creates_from_it(installed, site, tmp_path):
    """Nothing but the metapackage is asked for, nothing but one channel is asked, and the doctor passes."""
    mirror = tmp_path / "mirror"
    wheels = Path(url2pathname(urlsplit(installed.wheels).path))
    mirror_of([site.built, wheels, site.hollow], mirror)
    out = tmp_path / "conda-lock.yml"
    made = satenv("lock", "--with-channel", mirror.as_uri(), "--override-channels", "--out", str(out))
    assert made.returncode == 0, made.stderr
    lock = read_lock(out, "linux-64")
    assert lock.pip == () and {artefact.channel for artefact in lock.conda} == {mirror.as_uri()}
    prefix = tmp_path / "from-lock"
    plan = Plan(Source("channel"), lock.platform, lock.conda, requested=[NAME])
    install_prefix(Job(prefix, plan, cache_dir(), Silent()))
    report = doctor(prefix, "--level", "quick")
    assert {"imports.together", "video.decord"} <= {r["id"] for r in report["results"] if r["status"] == "passed"}


@pytest.fixture
def tiny(site, tmp_path):
    """The metapackage's own files, without what it needs, as rattler links them; CUDA as conda-forge lays it out."""
    prefix = tmp_path / "tiny"
    (record,) = site.built.glob(f"linux-64/{NAME}-*-cuda*.conda")
    name, version, build = record.name.removesuffix(".conda").rsplit("-", 2)
    linked = condauser.ask(prefix, [site.url], [f"{name} =={version} {build}"], {}, cache=site.cache, do="link")
    assert linked.get("linked") == [[name, version, build]], linked
    for folder in ("targets/x86_64-linux/include", "targets/x86_64-linux/lib/stubs"):
        (prefix / folder).mkdir(parents=True)
    (prefix / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (prefix / "bin" / "nvcc").chmod(0o755)
    return prefix


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
@pytest.mark.parametrize("before", [None, "/one:/two with space"])
def test_its_scripts_set_and_restore_in_every_shell(tiny, tmp_path, shell, before):
    env = {"CONDA_PREFIX": str(tiny), "TMPDIR": str(tmp_path)}
    env |= {"CPATH": before, "CUDA_HOME": before} if before else {}
    on, off = scripts(tiny, shell)
    plain = environment(run(shell, "env -0", env))
    active = environment(run(shell, f"{on}; env -0", env))
    assert active["CUDA_HOME"] == str(tiny)
    assert active["CPATH"] == f"{tiny}/targets/x86_64-linux/include" + (f":{before}" if before else "")
    assert Path(active["TORCH_EXTENSIONS_DIR"]).is_dir()
    assert environment(run(shell, f"{on}; {off}; env -0", env)) == plain


@pytest.mark.parametrize("shell", shells("bash", "zsh", "fish"))
def test_a_conda_client_activates_and_leaves_it(tiny, tmp_path, shell):
    """rattler writes the shell code, as pixi does; the variable comes from etc/conda/env_vars.d."""
    (tmp_path / "other" / "conda-meta").mkdir(parents=True)
    path = ["/usr/bin", "/bin"]
    kind = getattr(Shell, shell)
    on = activate(tiny, ActivationVariables(None, path), kind).script
    leave = activate(tmp_path / "other", ActivationVariables(tiny, [str(tiny / "bin"), *path]), kind).script
    env = {"TMPDIR": str(tmp_path)}
    active = environment(run(shell, f"{on}\nenv -0", env))
    assert active["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1" and active["CUDA_HOME"] == str(tiny)
    left = environment(run(shell, f"{on}\n{leave}\nenv -0", env))
    assert left["CONDA_PREFIX"] == str(tmp_path / "other")
    ours = ("CUDA_HOME", "CPATH", "LIBRARY_PATH", "TORCH_", "_COGVIDEO")
    assert not [name for name in left if name.startswith(ours)]


def test_removing_it_removes_its_files_and_nothing_else(installed, site):
    """The last one: the tests before need it."""
    prefix = installed.prefix
    files = {name: set(record["files"]) for name, record in records(prefix).items()}
    mine = files.pop(NAME)
    kept = {name for group in files.values() for name in group if (prefix / name).exists()}
    gone = condauser.ask(prefix, [], [NAME], {}, cache=site.cache, do="remove")
    assert [name for name, _, _ in gone["unlinked"]] == [NAME]
    assert not [name for name in mine if (prefix / name).exists()]
    assert not (prefix / "lib" / NAME).exists() and NAME not in records(prefix)
    assert not [name for name in kept if not (prefix / name).exists()]

"""A channel of generated packages on a loopback server, and a short way to install from it."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "src", ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import channelserver  # noqa: E402
import packages  # noqa: E402
from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin  # noqa: E402
from cogvideo_sat_env.base.paths import current_platform  # noqa: E402
from cogvideo_sat_env.install import conda_meta  # noqa: E402
from cogvideo_sat_env.install.job import Job, Options, Plan  # noqa: E402
from cogvideo_sat_env.install.outcome import InstallOutcome  # noqa: E402
from cogvideo_sat_env.install.transaction import install_prefix  # noqa: E402

CHANNEL = "https://conda.example.org/conda-forge"  # what the lock says; nothing is asked there
VARIABLES = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


@dataclass
class Recorder:
    """Progress that keeps what was said, and checks that what is counted stays within its total."""

    said: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def say(self, text: str) -> None:
        self.said.append(text)

    def task(self, title: str, total: int | None, unit: str) -> _Task:
        self.titles.append(title)
        self.done[title] = 0
        return _Task(self, title)


@dataclass
class _Task:
    recorder: Recorder
    title: str

    def __enter__(self) -> _Task:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def advance(self, amount: int) -> None:
        self.recorder.done[self.title] += amount

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class From:
    """Where bytes are: a source of one kind, as the program knows it."""

    url: Callable[[CondaArtefact], str]
    source: str = "mirror"
    links: Sequence[str] = ()

    def locate(self, artefact: CondaArtefact) -> Sequence[str]:
        return [self.url(artefact)]

    def find_links(self) -> Sequence[str]:
        return self.links

    def __str__(self) -> str:
        return self.source


def make_job(
    prefix: Path,
    cache: Path,
    progress: Any,
    source: From,
    given: dict[str, Any],
    pip_pins: Sequence[PipPin] | None = None,
) -> Job:
    """Return the job whose plan, options and places are `given` by name, in one."""
    plan = {field.name: given.pop(field.name) for field in fields(Plan) if field.name in given}
    options = {field.name: given.pop(field.name) for field in fields(Options) if field.name in given}
    found = Plan(**{"platform": current_platform(), "pip_pins": pip_pins or (), **plan, "source": source})
    return Job(prefix, found, given.pop("cache", cache), progress, Options(**options), **given)


@dataclass
class Site:
    """One test's machine: a channel server, a lock, a cache and a place for prefixes."""

    server: channelserver.ChannelServer
    artefacts: list[CondaArtefact]
    cache: Path
    home: Path
    progress: Recorder = field(default_factory=Recorder)

    def locate(self, artefact: CondaArtefact) -> str:
        return f"{self.server.url}/{artefact.channel_path}"

    def artefact(self, name: str) -> CondaArtefact:
        return next(a for a in self.artefacts if a.name == name)

    def install(
        self,
        prefix: Path,
        pip_pins: list[PipPin] | None = None,
        linked: Callable[[Path], None] = lambda staged: None,
        **options: Any,
    ) -> InstallOutcome:
        """Install; `linked` is called with the staging directory when everything conda's is in it.

        `options` are those of Plan, Options and Job, `locate`, `links` (places of pip files) and `source` (its text) those of its source.
        """
        source = {name: options.pop(name) for name in ("locate", "links", "source") if name in options}
        given = {"artefacts": self.artefacts, "facts": {"variant": "cpu"}, "variables": VARIABLES, **options}
        place = From(source.pop("locate", self.locate), **source)
        job = make_job(prefix, self.cache, self.progress, place, given, pip_pins)

        def complete(job: Any, placed: Any, staging: Path, *rest: Any) -> None:
            real(job, placed, staging, *rest)
            linked(staging)

        real = conda_meta.complete
        with mock.patch.object(conda_meta, "complete", complete):
            return install_prefix(job)

    def leftovers(self) -> list[str]:
        """Names in the prefixes' parent that no finished run leaves there."""
        return sorted(path.name for path in self.home.iterdir() if ".satenv-" in path.name)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated channel, in the folder that a mirror has for it."""
    root = tmp_path_factory.mktemp("mirror")
    packages.make_sample_channel(root / "conda-forge", [])
    return root


@pytest.fixture(scope="session")
def sample_with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with pip and setuptools in its python package (thousands of files, so only where they are needed)."""
    root = tmp_path_factory.mktemp("pip-mirror")
    packages.make_sample_channel(root / "conda-forge", packages.pip_wheels(tmp_path_factory.mktemp("pip")))
    return root


@pytest.fixture
def site(sample: Path, tmp_path: Path) -> Iterator[Site]:
    """A machine with an empty cache and an honest server."""
    (tmp_path / "envs").mkdir()
    with channelserver.serving(sample) as server:
        yield Site(server, packages.artefacts(sample / "conda-forge", CHANNEL), tmp_path / "cache", tmp_path / "envs")


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str], scripts: str = "") -> Path:
    """Write a wheel into `folder`; `scripts` is the text of its entry_points.txt."""
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        content[f"{info}/entry_points.txt"] = scripts
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            archive.writestr(zipfile.ZipInfo(member), text)
        record = "".join(f"{member},,\n" for member in [*content, f"{info}/RECORD"])
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), record)
    return path


def pin(path: Path, name: str, version: str) -> PipPin:
    """Return the pin of a file."""
    content = path.read_bytes()
    return PipPin(name, version, hashlib.sha256(content).hexdigest(), path.name, len(content))

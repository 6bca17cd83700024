"""A small project that builds in a second: the recipe's shape, two packages and a metapackage, no Python, no index."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.package.build import build as build_module

RECIPE = """\
schema_version: 1
recipe: {name: small, version: "1.0"}
build: {number: 0}
outputs:
  - package: {name: first}
    build:
      noarch: generic
      script: mkdir -p $PREFIX/share && cp $RECIPE_DIR/patches/first/text $PREFIX/share/first
    tests:
      - package_contents: {files: [share/first]}
      - script: ["cat $PREFIX/share/first"]
  - package: {name: second}
    build:
      noarch: generic
      script: sh $RECIPE_DIR/patches/second/make
    requirements: {run: [first]}
    tests:
      - script: ["cat $PREFIX/share/first $PREFIX/share/second"]
  - package: {name: cogvideo-sat-env}
    build:
      string: cpu_0
      script: mkdir -p $PREFIX/share && echo cpu > $PREFIX/share/meta
    requirements: {run: [second]}
  - package: {name: cogvideo-sat-env}
    build:
      string: cuda_0
      script: mkdir -p $PREFIX/share && echo cuda > $PREFIX/share/meta
    requirements: {run: [second]}
"""


def write_small(folder: Path) -> Path:
    """Write the small project, and a channel with nothing in it beside it; return the project's root."""
    root = folder / "project"
    for package, name, text in (
        ("first", "text", "one\n"),
        ("second", "make", "mkdir -p $PREFIX/share && echo two > $PREFIX/share/second\n"),
    ):
        file = root / "recipe" / "patches" / package / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (root / "src" / "cogvideo_sat_env" / "base").mkdir(parents=True)
    (root / "src" / "cogvideo_sat_env" / "base" / "wheel_patch.py").write_text("")
    (root / "LICENSE").write_text("all rights to everybody\n")
    (root / "recipe" / "recipe.yaml").write_text(RECIPE)
    for subdir in ("noarch", "linux-64"):
        empty = folder / "empty" / subdir
        empty.mkdir(parents=True)
        (empty / "repodata.json").write_text(
            f'{{"info": {{"subdir": "{subdir}"}}, "packages": {{}}, "packages.conda": {{}}}}'
        )
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The root of the small project."""
    return write_small(tmp_path)


def build_small(root: Path, out: Path, **options) -> build_module.BuildOutcome:
    """Build the small project, without its tests unless asked for."""
    progress = options.pop("progress", Silent())
    options = {"platform": "linux-64", "channels": [str(root.parent / "empty")], "test": False, **options}
    return build_module.build(root, out, build_module.BuildOptions(**options), progress)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The channel that the small project comes to. Read only."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATENV_CACHE", str(folder / "cache"))
        patch.delenv("SOURCE_DATE_EPOCH", raising=False)
        build_small(write_small(folder), folder / "channel")
    return folder / "channel"


@pytest.fixture
def channel(finished: Path, tmp_path: Path) -> Path:
    """The finished channel where `make` would build it, the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "channel"))


@pytest.fixture
def make(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Build the small project into tmp_path/OUT, without its tests unless asked for."""
    monkeypatch.setenv("SATENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def run(out: str = "channel", **options) -> build_module.BuildOutcome:
        return build_small(small, tmp_path / out, **options)

    return run

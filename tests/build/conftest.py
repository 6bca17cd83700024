"""A small project that builds in a second: the recipe's shape, two packages and a metapackage, no Python, no index."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideo_sat_env.build import command
from cogvideo_sat_env.progress import Silent

RECIPE = """\
schema_version: 1
recipe: {name: small, version: "1.0"}
build: {number: 0}
outputs:
  - package: {name: first}
    build:
      noarch: generic
      skip: [device == "cuda"]
      script: mkdir -p $PREFIX/share && cp $RECIPE_DIR/patches/first/text $PREFIX/share/first
    tests:
      - package_contents: {files: [share/first]}
      - script: ["cat $PREFIX/share/first"]
  - package: {name: second}
    build:
      noarch: generic
      skip: [device == "cuda"]
      script: sh $RECIPE_DIR/patches/second/make
    requirements: {run: [first]}
    tests:
      - script: ["cat $PREFIX/share/first $PREFIX/share/second"]
  - package: {name: cogvideo-sat-env}
    build:
      string: ${{ device }}_0
      script: mkdir -p $PREFIX/share && echo ${{ device }} > $PREFIX/share/meta
    requirements: {run: [second]}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The root of the small project."""
    root = tmp_path / "project"
    for package, name, text in (
        ("first", "text", "one\n"),
        ("second", "make", "mkdir -p $PREFIX/share && echo two > $PREFIX/share/second\n"),
    ):
        file = root / "recipe" / "patches" / package / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (root / "src").mkdir()
    (root / "LICENSE").write_text("all rights to everybody\n")
    (root / "recipe" / "recipe.yaml").write_text(RECIPE)
    (root / "recipe" / "variants.yaml").write_text("device: [cpu, cuda]\n")
    for subdir in ("noarch", "linux-64"):
        folder = tmp_path / "empty" / subdir
        folder.mkdir(parents=True)
        (folder / "repodata.json").write_text(
            f'{{"info": {{"subdir": "{subdir}"}}, "packages": {{}}, "packages.conda": {{}}}}'
        )
    return root


@pytest.fixture
def make(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Build the small project into tmp_path/OUT, without its tests unless asked for."""
    monkeypatch.setenv("SATENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)

    def run(out: str = "channel", **options) -> command.Outcome:
        options = {
            "platform": "linux-64",
            "channels": [str(tmp_path / "empty")],
            "test": False,
            "progress": Silent(),
            **options,
        }
        return command.build(small, tmp_path / out, **options)

    return run

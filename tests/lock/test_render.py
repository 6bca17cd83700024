"""What is rendered from a lock: golden directories of conda-lock.yml and the files that come of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from rattler import LockFile
from rattler.explicit_environment import ExplicitEnvironmentSpec

from cogvideo_sat_env.base.artefacts import split_archive, split_url
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.lock import render
from cogvideo_sat_env.lock.read import read_lock
from cogvideo_sat_env.spec.variants import read_variants

GOLDEN = Path(__file__).parents[1] / "golden" / "render"
PROJECT = Path(__file__).parents[2]
VARIANTS = read_variants()


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_rendered_files_are_the_golden_ones(case):
    folder = GOLDEN / case
    texts = render.lock_files(VARIANTS[0], read_lock(folder / "conda-lock.yml", VARIANTS[0].platform))
    expected = {path.name: path.read_text() for path in (folder / "expected").iterdir()}
    assert {Path(name).name: text for name, text in texts.items()} == expected


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
def test_an_explicit_lockfile_is_what_conda_reads(variant):
    path = PROJECT / variant.explicit_lock
    spec = ExplicitEnvironmentSpec.from_path(path)
    lock = read_lock(PROJECT / variant.lock, variant.platform)
    assert str(spec.platform) == variant.platform
    assert {entry.url for entry in spec.packages} == {f"{a.url}#sha256:{a.sha256}" for a in lock.conda}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
def test_what_is_needed_comes_first(variant):
    lock = read_lock(PROJECT / variant.lock, variant.platform)
    depends = {a.file_name: {dep.split()[0] for dep in a.depends} for a in lock.conda}
    names = {a.file_name: a.name for a in lock.conda}
    seen: set[str] = set()
    for line in (PROJECT / variant.explicit_lock).read_text().splitlines():
        if line.startswith("https://"):
            file_name = split_url(line.partition("#")[0])[2]
            missing = (depends[file_name] & set(names.values())) - seen - {"pip"}
            assert not missing, f"{file_name} before {missing}"
            seen.add(names[file_name])


def test_no_committed_lock_names_a_host_but_the_channels():
    for path in [PROJECT / "conda-lock.yml", *sorted((PROJECT / "locks").glob("*[!2]"))]:  # manifests are packed
        hosts = set(re.findall(r"https?://([^/\s'\"]+)", path.read_text()))
        assert hosts <= {"conda.anaconda.org", "github.com"}, path


@pytest.mark.parametrize("name", sorted({variant.lock for variant in VARIANTS}))
def test_rattler_reads_the_conda_part_as_pixi_does(name, tmp_path):
    """Not the pip part: its addresses begin with a variable, and conda-lock writes its bounds in Poetry's words."""
    content = yaml.load((PROJECT / name).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    content["package"] = [entry for entry in content["package"] if entry["manager"] == "conda"]
    path = tmp_path / "conda-lock.yml"
    path.write_text(yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False))
    ((_, environment),) = LockFile.from_path(path).environments()
    found = {package.location for platform in environment.platforms() for package in environment.packages(platform)}
    assert found == {entry["url"] for entry in content["package"]}


def test_a_lock_without_the_platform_says_which_it_has():
    with pytest.raises(InputError, match="holds no solution for win-64; it has linux-64, linux-aarch64, osx-arm64"):
        read_lock(PROJECT / "conda-lock.yml", "win-64")


def test_a_lock_of_another_version_is_refused(tmp_path):
    path = tmp_path / "conda-lock.yml"
    path.write_text("version: 6\n")
    with pytest.raises(InputError, match=r"conda-lock\.yml:1: expected a conda-lock file .* found version 6"):
        read_lock(path, "linux-64")


def test_a_truncated_lock_is_named_with_its_line(tmp_path):
    path = tmp_path / "conda-lock.yml"
    text = (PROJECT / "conda-lock.yml").read_text()
    path.write_text(text[: text.index("  hash:")] + "  hash: {sha256:")
    with pytest.raises(InputError, match=r"conda-lock\.yml:\d+: "):
        read_lock(path, "linux-64")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        (
            "https://c.org/forge/linux-64/x264-1%21164-h1_2.tar.bz2",
            ("https://c.org/forge", "linux-64", "x264-1!164-h1_2.tar.bz2"),
        ),
        ("https://c.org/a/b/noarch/a-b-1.0-py_0.conda", ("https://c.org/a/b", "noarch", "a-b-1.0-py_0.conda")),
    ],
)
def test_urls_are_split_and_decoded(url, parts):
    assert split_url(url) == parts


@pytest.mark.parametrize("name", ["numpy.conda", "numpy-1.0.conda", "../x-1-0.txt", ""])
def test_a_file_name_that_is_no_archive_is_refused(name):
    with pytest.raises(ValueError, match="is not"):
        split_archive(name)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
def test_a_conda_lock_file_has_the_ending_that_mamba_knows_it_by(variant):
    """By another name mamba and micromamba read an environment file without dependencies: exit 0, nothing in it."""
    assert variant.lock.endswith("-lock.yml")

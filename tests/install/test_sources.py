"""A source that lies, breaks or is away: one clear error, and nothing half-made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import packages
from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import PrefixError, SourceError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.fetch.redact import redact
from cogvideo_sat_env.fetch.wanted import Policy
from cogvideo_sat_env.install import stage_prefix

from .conftest import Site

NAME = "prefixed-1.0-h0_0.conda"


def _nothing_made(site: Site, name: str = "env", partial: int = 0) -> None:
    """`partial` are the bytes that are kept for the next run, which goes on from there."""
    assert not (site.home / name).exists() and site.leftovers() == []
    assert sum(path.stat().st_size for path in site.cache.rglob(f"{NAME}*.partial")) == partial
    assert not list((site.cache / "artefacts").glob(f"*/*/{NAME}"))


def test_a_flipped_bit_is_found_before_the_first_link(site: Site) -> None:
    site.server.fail(NAME, "flip")
    with pytest.raises(VerificationError) as caught:
        site.install(site.home / "env")
    expected = site.artefact("prefixed").sha256
    assert NAME in caught.value.message and expected in caught.value.message and "found" in caught.value.message
    assert site.server.url in caught.value.message and caught.value.remedy
    assert "Linking" not in site.progress.titles and not list((site.cache / "pkgs").glob("prefixed-*.manifest.json"))
    _nothing_made(site)


def test_one_flipped_bit_on_the_way_is_repaired_by_asking_again(site: Site) -> None:
    site.server.fail(NAME, "flip", times=1)
    assert site.install(site.home / "env").status == "created"
    assert any("trying again" in line for line in site.progress.said)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "said"), [("truncate", "truncated"), ("reset", "truncated"), ("short", "truncated")])
def test_a_body_that_ends_early_is_named(site: Site, kind: str, said: str) -> None:
    site.server.fail(NAME, kind)
    with pytest.raises(VerificationError, match=said) as caught:
        site.install(site.home / "env")
    size = site.artefact("prefixed").size
    assert f"expected {size:,} bytes, found {size // 2:,}" in caught.value.message
    _nothing_made(site, partial=0 if kind == "short" else size // 2)


@pytest.mark.parametrize("kind", ["truncate", "reset", "short", "longer", "503", "429"])
def test_a_fault_that_passes_is_survived(site: Site, kind: str) -> None:
    site.server.fail(NAME, kind, times=1)
    assert site.install(site.home / "env").status == "created"


def test_more_bytes_than_locked_are_refused(site: Site) -> None:
    site.server.fail(NAME, "longer")
    with pytest.raises(VerificationError, match="more arrive"):
        site.install(site.home / "env")
    _nothing_made(site)


def test_without_a_locked_size_the_hash_decides(site: Site) -> None:
    site.server.fail(NAME, "longer")
    with pytest.raises(VerificationError, match="expected SHA-256"):
        site.install(site.home / "env", artefacts=[replace(a, size=None) for a in site.artefacts])
    _nothing_made(site)


def test_a_wrong_size_in_the_lock_is_named(site: Site) -> None:
    wrong = [replace(a, size=a.size + 7) if a.name == "prefixed" else a for a in site.artefacts]
    with pytest.raises(VerificationError, match=r"expected [\d,]+ bytes, found [\d,]+"):
        site.install(site.home / "env", artefacts=wrong)
    _nothing_made(site)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "word"),
    [("404", "lacks a locked"), ("403", "credentials"), ("401", "credentials"), ("500", "later"), ("503", "later")],
)
def test_each_refusal_of_the_server_names_url_status_and_remedy(site: Site, status: str, word: str) -> None:
    site.server.fail(NAME, status)
    with pytest.raises(SourceError, match=status) as caught:
        site.install(site.home / "env")
    assert f"{site.server.url}/conda-forge" in caught.value.message and word in caught.value.remedy
    _nothing_made(site)


def test_an_endless_redirect_ends(site: Site) -> None:
    site.server.fail(NAME, "loop")
    with pytest.raises(SourceError, match="redirect"):
        site.install(site.home / "env")
    _nothing_made(site)


@pytest.mark.slow
def test_a_slow_answer_is_waited_for(site: Site) -> None:
    site.server.fail(NAME, "slow", seconds=2)
    assert site.install(site.home / "env").status == "created"


@pytest.mark.slow
def test_a_stalled_transfer_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_prefix, "Policy", lambda jobs: Policy(jobs, attempts=1, stall=1.0))
    site.server.fail(NAME, "stall", seconds=30)
    with pytest.raises(VerificationError, match="no byte for 1 s"):
        site.install(site.home / "env", artefacts=[site.artefact("prefixed")])
    _nothing_made(site, partial=site.artefact("prefixed").size // 2)


@pytest.mark.slow
def test_an_unreachable_channel_is_named_with_the_other_ways(site: Site) -> None:
    site.server.close()
    with pytest.raises(SourceError, match="can't be reached") as caught:
        site.install(site.home / "env")
    assert site.server.url in caught.value.message and "--source wheels" in caught.value.remedy
    _nothing_made(site)


def test_a_mirror_folder_without_the_file_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file") as caught:
        site.install(site.home / "env", locate=lambda a: (tmp_path / "empty" / a.file_name).as_uri())
    assert str(tmp_path / "empty") in caught.value.message
    _nothing_made(site)


def test_credentials_never_show_in_messages() -> None:
    assert redact("https://user:pw@host/t/tk-123/conda-forge/x") == "https://host/t/<TOKEN>/conda-forge/x"


def test_a_poisoned_download_cache_is_noticed_and_mended(site: Site) -> None:
    site.install(site.home / "one")
    cached = next((site.cache / "artefacts").glob(f"*/*/{NAME}"))
    content = bytearray(cached.read_bytes())
    content[len(content) // 2] ^= 1
    cached.write_bytes(content)
    site.server.heal()
    shutil.rmtree(site.cache / "pkgs")  # else the archive isn't read again
    assert site.install(site.home / "two").status == "created"
    assert [path.rpartition("/")[2] for path in site.server.fetched()] == [NAME]
    assert any("was damaged" in line for line in site.progress.said)


@pytest.mark.fault("cache-tampered", "environment", "the package is extracted again")
def test_a_poisoned_package_cache_is_extracted_anew(site: Site) -> None:
    site.install(site.home / "one")
    (folder,) = (path for path in (site.cache / "pkgs").glob("prefixed-*") if path.is_dir())
    poisoned = folder / "share" / "prefixed" / "plain.txt"
    poisoned.unlink()
    poisoned.write_text("poison")
    site.install(site.home / "two")
    assert (site.home / "two" / "share" / "prefixed" / "plain.txt").read_text() == "plain\n"


def test_the_same_name_with_other_bytes_is_not_taken_from_the_package_cache(
    site: Site, sample: Path, tmp_path: Path
) -> None:
    site.install(site.home / "one")
    spec = packages.Spec("prefixed", files={"share/prefixed/plain.txt": packages.Text("another build\n")})
    made = packages.make_package(spec, tmp_path / "conda-forge", current_platform())
    other = packages.artefact(made, site.artefacts[0].channel)
    artefacts = [other if a.name == "prefixed" else a for a in site.artefacts]
    roots = {other.sha256: tmp_path}
    site.install(
        site.home / "two", artefacts=artefacts, locate=lambda a: (roots.get(a.sha256, sample) / a.channel_path).as_uri()
    )
    assert (site.home / "two" / "share" / "prefixed" / "plain.txt").read_text() == "another build\n"


@pytest.mark.parametrize("content", [b"", b"not an archive"])
@pytest.mark.fault("archive-junk", "error", "names the file, and says that the lock or the channel is at fault")
def test_a_locked_file_that_is_no_package_is_named(site: Site, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "conda-forge" / current_platform() / "junk-1-0.conda"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    junk = packages.artefact(path, site.artefacts[0].channel)
    with pytest.raises(VerificationError, match="no readable conda package"):
        site.install(site.home / "env", artefacts=[junk], locate=lambda a: path.as_uri())
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_another_valid_package_under_the_locked_name_is_refused(site: Site) -> None:
    swapped = replace(site.artefact("data"), name="linked", version="1.0", build="h0_0")
    with pytest.raises(VerificationError, match="expected linked 1.0 h0_0, found data 3 0"):
        site.install(site.home / "env", artefacts=[swapped])
    assert not (site.home / "env").exists() and site.leftovers() == []


def test_too_little_space_is_told_before_the_download(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = [replace(a, size=10**18) for a in site.artefacts]
    with pytest.raises(PrefixError, match="only .* free"):
        site.install(site.home / "env", artefacts=huge)
    assert site.server.requests == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("mounting a small tmpfs needs root on Linux")
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def _with_a_large_package(site: Site, folder: Path, content: bytes) -> dict[str, object]:
    spec = packages.Spec("large", files={"share/large": packages.Binary(content)})
    made = packages.artefact(
        packages.make_package(spec, folder / "conda-forge", current_platform()), site.artefacts[0].channel
    )
    return {
        "artefacts": [*site.artefacts, made],
        "locate": lambda a: (folder / a.channel_path).as_uri() if a is made else site.locate(a),
    }


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(
            stage, marks=pytest.mark.fault(f"disk-full-{fault}", "error", "names the place; nothing half-made is left")
        )
        for stage, fault in (("download", "download"), ("extraction", "extract"), ("prefix", "link"))
    ],
)
def test_a_disk_that_fills_up_is_named_and_leaves_nothing(
    site: Site, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(diskspace, "require", lambda *_: None)  # as when another program takes the space meanwhile
    content = os.urandom(8_000_000) if stage == "download" else bytes(8_000_000)  # zeros: small until extracted
    options = _with_a_large_package(site, tmp_path / "own", content)
    prefix = site.home / "env"
    if stage == "prefix":
        prefix = small_disk / "env"
    else:
        options["cache"] = small_disk / "cache"
    with pytest.raises(PrefixError, match="no space left") as caught:
        site.install(prefix, **options)
    assert str(small_disk) in caught.value.message
    assert not prefix.exists() and not [p for p in prefix.parent.iterdir() if ".satenv-" in p.name]
    if stage == "extraction":  # with space again, what was cut off in the cache is made whole
        assert site.install(prefix, **options | {"cache": site.cache}).status == "created"


@pytest.mark.fault("disk-full-link", "error", "says before linking how much is needed and how much is free")
def test_a_disk_that_is_too_small_is_told_before_linking(site: Site, small_disk: Path, tmp_path: Path) -> None:
    options = _with_a_large_package(site, tmp_path / "own", bytes(8_000_000))
    with pytest.raises(PrefixError, match="8.0 MB .* needed for the environment"):
        site.install(small_disk / "env", **options)
    assert not (small_disk / "env").exists() and "Linking" not in site.progress.titles


@pytest.mark.fault("read-only", "error", "names the place before anything is fetched")
def test_a_read_only_place_is_named(site: Site, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if os.geteuid() == 0:  # root may write everywhere but on a read-only file system
        place = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    else:
        place = tmp_path / "locked"
        place.mkdir(mode=0o500)
    for prefix in (place / "env", place / "deeper" / "env"):
        with pytest.raises(PrefixError, match=str(place)):
            site.install(prefix)
    assert site.server.requests == []


@pytest.mark.fault("read-only", "error", "names the place before anything is fetched")
def test_a_place_where_no_directory_can_be_is_named(site: Site) -> None:
    with pytest.raises(PrefixError, match="/proc/satenv"):
        site.install(Path("/proc/satenv/env"))

"""Locks and YAML files that are not what they should be: one error with file and line, before anything is made."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.errors import InputError, VerificationError
from cogvideo_sat_env.lock.read import read_lock
from install.conftest import Site

WHAT = "a conda-lock file"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)


@pytest.mark.fault("yaml-encoding", "error", "names the file and the first byte that is wrong")
def test_a_lock_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    path.write_bytes("version: 1  # für".encode("latin-1"))
    with pytest.raises(InputError, match=r"conda-lock.yml: byte 15 is not UTF-8"):
        read_lock(path, "linux-64")


@pytest.mark.fault("yaml-huge", "error", "names the file, its size and the largest that is read")
def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    path.touch()
    os.truncate(path, yamlfile.MAX_BYTES + 1)
    with pytest.raises(InputError, match="67,108,865 bytes; expected"):
        read_lock(path, "linux-64")


@pytest.mark.fault("yaml-bomb", "error", "names what is missing: aliases are never copied")
def test_aliases_that_would_fill_the_memory_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    path.write_text(BOMB)
    with pytest.raises(InputError, match="expected a conda-lock file"):
        read_lock(path, "linux-64")


@pytest.mark.fault("yaml-bomb", "error", "names the line that is nested too deeply")
@pytest.mark.parametrize("text", ["[" * 1_000_000, "{a: " * 200_000, "- " * 400_000 + "a", "[" * 5000 + "]" * 5000])
def test_nesting_that_would_overflow_the_stack_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "conda-lock.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"conda-lock.yml:\d+: "):
        yamlfile.load(path, WHAT)


@pytest.mark.fault("yaml-duplicate", "error", "names the key and both lines")
def test_a_key_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "conda-lock.yml"
    path.write_text("version: 1\nmetadata: {platforms: [linux-64]}\npackage: []\nversion: 2\n")
    with pytest.raises(InputError, match=r"conda-lock.yml:4: key 'version' stands twice \(first on line 1\)"):
        read_lock(path, "linux-64")


EDITED = {
    "no hash": ("sha256: " + "a" * 64, "sha256: abc", "expected 64 hex digits, found 'abc'"),
    "another package's URL": ("x-1-0.conda", "y-1-0.conda", "x 1 has the URL of y 1"),
    "another version": ("version: '1'", "version: '2'", "x 2 has the URL of x 1"),
    "a path for a file name": ("linux-64/x-1-0.conda", "linux-64/%2E%2E%2Fx-1-0.conda", "has the URL of"),
    "another manager": ("manager: conda", "manager: npm", "manager must be conda or pip"),
    "no version": ("  version: '1'\n", "", "has no 'version'"),
}


@pytest.mark.fault("lock-edited", "error", "names file, line and package, and what is wrong with it")
@pytest.mark.parametrize("edit", EDITED)
def test_a_lock_that_was_edited_is_named_with_its_line(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "conda-lock.yml"
    text = (
        "version: 1\nmetadata:\n  platforms: [linux-64]\npackage:\n- name: x\n  version: '1'\n  manager: conda\n"
        "  platform: linux-64\n  dependencies: {}\n  url: https://conda.example.org/c/linux-64/x-1-0.conda\n"
        f"  hash:\n    sha256: {'a' * 64}\n"
    )
    old, new, said = EDITED[edit]
    assert old in text
    path.write_text(text)
    assert read_lock(path, "linux-64").conda[0].name == "x"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"conda-lock.yml:5: ") as caught:
        read_lock(path, "linux-64")
    assert said in caught.value.message and caught.value.remedy


@pytest.mark.fault("lock-edited", "error", "names the file and both hashes; nothing is linked")
def test_another_hash_in_the_lock_is_told_before_the_first_link(site: Site) -> None:
    edited = [replace(a, sha256="0" * 64) if a.name == "linked" else a for a in site.artefacts]
    with pytest.raises(VerificationError, match=f"expected SHA-256 {'0' * 64}"):
        site.install(site.home / "env", artefacts=edited)
    assert not (site.home / "env").exists() and site.leftovers() == [] and "Linking" not in site.progress.titles


@pytest.mark.fault("lock-edited", "error", "names what was expected and what the archive is")
def test_another_build_in_the_lock_is_told_before_the_first_link(site: Site) -> None:
    edited = [replace(a, build="h9_9") if a.name == "linked" else a for a in site.artefacts]
    with pytest.raises(VerificationError, match="expected linked 1.0 h9_9, found linked 1.0 h0_0"):
        site.install(site.home / "env", artefacts=edited)
    assert not (site.home / "env").exists() and site.leftovers() == [] and "Linking" not in site.progress.titles

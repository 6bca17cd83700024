"""A lock that others made gets a remedy that helps its reader, never the command that makes the project's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.lock.read import public_text, read_lock

PROJECT = Path(__file__).parents[2]
SHA = "AB" * 32
COMMIT = "3f07f990ac74f1e1691ba17ef8c14007f05846ab"
GOOD = {
    "name": "data", "version": "3", "manager": "conda", "platform": "linux-64", "dependencies": {}, "category": "main",
    "url": "https://conda.example.org/c/noarch/data-3-0.conda", "hash": {"sha256": SHA}, "optional": False,
}  # fmt: skip
PIP = {"manager": "pip", "name": "tool", "version": "2.32.4"}


def write(path: Path, *changes: dict) -> Path:
    metadata = {"content_hash": {"linux-64": "x"}, "channels": [], "platforms": ["linux-64"], "sources": []}
    path.write_text(yaml.safe_dump({"version": 1, "metadata": metadata, "package": [GOOD | c for c in changes]}))
    return path


@pytest.mark.parametrize(
    ("entry", "said", "remedy"),
    [
        (PIP | {"url": f"git+https://git.example.org/a/tool.git@{COMMIT}", "hash": {"sha256": COMMIT}},
         "tool is from git (git+https://git.example.org/a/tool.git", "put a released version or a wheel of tool"),
        (PIP | {"url": f"git+ssh://git:pw@git.example.org/a/tool@{COMMIT}", "hash": {"sha256": COMMIT}},
         "tool is from git (git+ssh://git.example.org/a/tool", "released version"),
        ({"hash": {"md5": "0" * 32}}, "data has no SHA-256, only an MD5", "conda-lock 1.0"),
        ({"hash": {}}, "data has no SHA-256", "conda-lock lock"),
        ({"hash": {"sha256": "abc"}}, "expected 64 hex digits, found 'abc'", "conda-lock lock"),
        ({"version": 1.1}, "version of package 'data' stands without quotes: YAML reads it as 1.1", "put it into quotes"),
        ({"version": 3}, "YAML reads it as 3", "put it into quotes"),
        ({"name": True}, "YAML reads it as True", "put it into quotes"),
        ({"url": None}, "has no 'url'", "conda-lock lock"),
        ({"url": "https://u:s3cret@h/t/s3cret/c/noarch/no.conda?s3cret"}, "'no.conda' is not", "conda-lock lock"),
    ],
)  # fmt: skip
def test_an_entry_that_proves_nothing_says_what_to_do(tmp_path: Path, entry: dict, said: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lock(write(tmp_path / "own-conda-lock.yml", entry), "linux-64")
    assert said in caught.value.message and remedy in caught.value.remedy
    assert "satenv lock" not in caught.value.remedy and "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("version: 6\nenvironments:\n  default: {channels: [], packages: {}}\npackages: []\n", "lock of pixi", "pixi workspace"),
        ("# platform: linux-64\n@EXPLICIT\nhttps://c/noarch/a-1-0.conda#md5\n", "explicit lockfile", "conda-lock.yml"),
        ("version: 2\nmetadata: {}\n", "found version 2", "conda-lock lock"),
        ("name: x\ndependencies: [python]\n", "is an environment file", "conda-lock lock -f"),
        ("", "found an empty file", "conda-lock lock"),
        ("- a\n", "found a file without a version", "conda-lock lock"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_named(tmp_path: Path, text: str, said: str, remedy: str) -> None:
    (tmp_path / "pixi.lock").write_text(text)
    with pytest.raises(InputError) as caught:
        read_lock(tmp_path / "pixi.lock", "linux-64")
    assert said in caught.value.message and remedy in caught.value.remedy and "satenv lock" not in caught.value.remedy


def test_upper_case_hashes_are_hashes(tmp_path: Path) -> None:
    (found,) = read_lock(write(tmp_path / "l.yml", {}), "linux-64").conda
    assert found.sha256 == SHA.lower() and "conda-lock lock" in found.relock


def test_a_copy_for_others_holds_no_secret_and_is_the_same_lock(tmp_path: Path) -> None:
    url = "https://u:pa%27ss@h/t/tk-99/c/noarch/data-3-0.conda?sig=s3cret"
    path = write(tmp_path / "l.yml", {"url": url})
    path.write_text(path.read_text().replace("channels: []", "channels: [{url: 'https://u:pa%27ss@h/t/tk-99/c'}]"))
    text = public_text(path)
    assert not any(word in text for word in ("pa%27ss", "tk-99", "s3cret")) and "https://h/c/noarch/data-3-0" in text
    plain = write(tmp_path / "plain.yml", {})
    assert public_text(plain) == plain.read_text()
    path.write_text(path.read_text() + "# my token is tk-99\n")
    with pytest.raises(InputError, match="can't be taken out"):
        public_text(path)


def test_rattlers_reader_reads_the_conda_part_of_our_locks(tmp_path: Path) -> None:
    from rattler import LockFile

    for lock in ("conda-lock.yml", *(f"locks/{path.name}" for path in (PROJECT / "locks").glob("*-conda-lock.yml"))):
        content = yaml.load((PROJECT / lock).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        content["package"] = [entry for entry in content["package"] if entry["manager"] == "conda"]
        (tmp_path / "conda-lock.yml").write_text(yaml.dump(content, Dumper=yaml.CSafeDumper))
        ((_, environment),) = LockFile.from_path(tmp_path / "conda-lock.yml").environments()
        read = {platform.name: len(environment.packages(platform)) for platform in environment.platforms()}
        assert sum(read.values()) == len(content["package"]), (lock, read)

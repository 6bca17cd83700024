"""A manifest may be anybody's: whatever stands in it, there is one clear error and nothing else."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, SatenvError, VerificationError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.bundle import install
from cogvideo_sat_env.bundle.container import _read_tail, make_tail, open_bundle
from cogvideo_sat_env.bundle.describe import compare, describe
from cogvideo_sat_env.bundle.unpack_tool import unpack_project, unpack_tool
from cogvideo_sat_env.bundle.verify_bundle import verify
from cogvideo_sat_env.bundle.write import Item, write_bundle

pytestmark = pytest.mark.slow

ZEROS = "0" * 64
PART = {
    "platform": current_platform(), "lock": "l.yml", "lock_sha256": ZEROS, "channels": ["c"], "installed_bytes": 3,
    "python": "", "pip": [{"name": "n", "version": "1", "file_name": "n.whl", "sha256": ZEROS, "size": 1}],
    "conda": [{"path": "c/noarch/a-1-0.conda", "url": "https://x/c/noarch/a-1-0.conda", "sha256": ZEROS, "md5": "",
               "size": 1, "depends": ["b >=1"], "installed_bytes": 3}],
}  # fmt: skip
FACTS = {
    "schema": 1, "tool_version": "1", "source": "lock", "parts": {"linux-64-cpu": PART}, "specs": ["a"],
    "tool": {"key": "1", "wheels": {"3.11/linux-64": ["tool/wheels/a.whl"]}}, "not_provided": [],
}  # fmt: skip
JUNK = (None, -1, 1.5, True, "", "../../x", "a\0b", [], {"a": 1}, 10**30)


@dataclass
class Forger:
    """A small bundle whose manifest is written anew, with a tail that fits."""

    path: Path
    front: bytes
    members: dict[str, bytes]

    @property
    def manifest(self) -> dict:
        return json.loads(self.members["manifest.json"])

    def forge(self, manifest: object) -> Path:
        raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        self.path.write_bytes(self.front + make_tail({**self.members, "manifest.json": raw}))
        return self.path


@pytest.fixture
def forger(tmp_path: Path) -> Forger:
    path = tmp_path / "x.pyz"
    items = [Item("project/environment.yml", b"name: x\n"), Item("tool/wheels/a.whl", b"no zip"), Item("sbom", b"{}")]
    write_bundle(path, items, FACTS, volume_size=None, base=None, seen=lambda _: None)
    _, members, size = _read_tail(path)
    return Forger(path, path.read_bytes()[:-size], members)


def places(value: object, before: tuple = ()) -> Iterator[tuple]:
    """Yield the place of everything in a JSON value, as keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*before, key)
        yield from places(inner, (*before, key))


def use(path: Path, cache: Path) -> None:
    """Do all that is done with a bundle before its bytes are believed; only clear errors may come."""
    for step in (
        lambda: describe(open_bundle(path)), lambda: compare(open_bundle(path), open_bundle(path)),
        lambda: install._choose(open_bundle(path), "auto"), lambda: verify(open_bundle(path)),
        lambda: unpack_project(open_bundle(path), cache), lambda: unpack_tool(open_bundle(path), cache),
        lambda: open_bundle(path).attach(open_bundle(path)),
    ):  # fmt: skip
        try:
            step()
        except SatenvError as error:
            assert error.message


def test_whatever_stands_in_a_manifest_ends_in_a_clear_error(forger: Forger, tmp_path: Path) -> None:
    whole = forger.manifest
    verify(open_bundle(forger.forge(whole)))
    for place in places(whole):
        for junk in (*JUNK, "gone"):
            manifest = copy.deepcopy(whole)
            at = manifest
            for step in place[:-1]:
                at = at[step]
            at[place[-1]] = junk
            if junk == "gone":
                del at[place[-1]]
            use(forger.forge(manifest), tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "x.pyz"], "and nothing lies elsewhere"


@pytest.mark.parametrize("raw", [b"", b"[" * 200_000, b'{"a":' * 100_000, b"\xff\xfe", b"9" * 10_000, b"[]"])
def test_what_is_no_manifest_is_named(forger: Forger, raw: bytes) -> None:
    with pytest.raises(VerificationError, match="its manifest can't be read"):
        open_bundle(forger.forge(raw))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "sbom"}, "'sbom' stands twice"),
        ({"offset": None}, "is in no base and has no place"),
        ({"offset": 10**9}, "lies beyond the end"),
        ({"path": "a/../../b"}, "leads out of a folder"),
    ],
)
def test_a_member_that_cannot_be_is_named(forger: Forger, change: dict, said: str) -> None:
    manifest = forger.manifest
    manifest["members"][0] |= change
    with pytest.raises(VerificationError, match=said):
        open_bundle(forger.forge(manifest))


def test_a_manifest_of_a_later_schema_says_what_reads_it(forger: Forger) -> None:
    with pytest.raises(InputError, match="a bundle of schema 2; this program reads 1") as caught:
        open_bundle(forger.forge({**forger.manifest, "schema": 2}))
    assert caught.value.remedy == "use the bundle's own program: python3 x.pyz"


def test_a_tail_that_would_unpack_to_more_than_it_is_refused_unread(forger: Forger, monkeypatch) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("nothing of it may be unpacked"))
    forger.path.write_bytes(b"")
    with zipfile.ZipFile(forger.path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(50_000_000))
    assert forger.path.stat().st_size < 100_000
    with pytest.raises(VerificationError, match="isn't one that satenv has written"):
        open_bundle(forger.path)

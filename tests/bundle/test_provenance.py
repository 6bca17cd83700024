"""Who vouches for what: a statement holds for the bytes that were signed, by a signer of yours, while nothing changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, SatenvError, SourceError, VerificationError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.bundle.container import open_bundle
from cogvideo_sat_env.bundle.provenance import Trust, attest, verify
from cogvideo_sat_env.bundle.write import Item, write_bundle
from cogvideo_sat_env.report import signature, sigstore, statement
from conftest import PROJECT

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
FACTS = {
    "schema": 1, "tool_version": "1", "source": "lock", "specs": [], "tool": {"key": "1", "wheels": {}},
    "not_provided": [], "parts": {},
}  # fmt: skip


@pytest.fixture
def keys(tmp_path: Path) -> Callable[[str], Path]:
    """Make a key of a name; `signers` beside it has that of `me`."""

    def make(name: str) -> Path:
        key = tmp_path / "keys" / name
        if not key.exists():
            key.parent.mkdir(exist_ok=True)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key], check=True)
        return key

    public = " ".join(Path(f"{make('me')}.pub").read_text().split()[:2])
    (tmp_path / "signers").write_text(f'me@example.org namespaces="cogvideo-sat-env-*" {public}\n')
    return make


@pytest.fixture
def own(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with its data and metadata, in which satenv runs."""
    monkeypatch.setenv("SATENV_PROJECT", str(project))
    shutil.copytree(PROJECT / "src/cogvideo_sat_env/data", project / "src/cogvideo_sat_env/data")
    shutil.copytree(PROJECT / "metadata", project / "metadata")
    return project


def small_bundle(path: Path, volume_size: int | None = None) -> Path:
    items = [Item("project/environment.yml", b"name: x\n"), Item("big", bytes(1_500_000))]
    write_bundle(path, items, FACTS, volume_size=volume_size, base=None, seen=lambda _: None)
    return path


def test_a_statement_says_what_everything_was_made_from_and_is_the_same_each_time(own: Path, tmp_path: Path) -> None:
    (tmp_path / "channel/noarch").mkdir(parents=True)
    (tmp_path / "channel/noarch/repodata.json").write_text("{}")
    sat = small_bundle(tmp_path / "sat.pyz", 1_000_000)
    content = attest(own, [sat, tmp_path / "channel"], tmp_path / "p.intoto.json")
    assert attest(own, [tmp_path / "channel", sat], tmp_path / "q.intoto.json") == content
    found = json.loads(content)
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {entry["name"] for entry in found["subject"]}
    assert {"conda-lock.yml", "locks/conda-linux-64.lock", "environments/linux-64-cpu.yml", "recipe/pins.txt",
            "sat.pyz", "sat.pyz.v01", "sat.pyz.v02", "channel/noarch/repodata.json"} <= subjects  # fmt: skip
    definition = found["predicate"]["buildDefinition"]
    inputs = {entry["name"] for entry in definition["resolvedDependencies"]}
    assert {"environment.yml", "src/cogvideo_sat_env/data/breakage.yml", "metadata/manifest.json",
            "metadata/conda-forge/linux-64/repodata.json.zst", "recipe/recipe.yaml"} <= inputs  # fmt: skip
    assert definition["externalParameters"]["sat.pyz"] == {"source": "lock", "tool_version": "1", "locks": {}}
    assert {"satenv", "py-rattler", "conda-lock"} <= found["predicate"]["runDetails"]["builder"]["version"].keys()
    assert str(tmp_path) not in content.decode()


def test_a_signed_statement_holds_for_all_that_it_names(own: Path, tmp_path: Path, keys: Callable[[str], Path]) -> None:
    trust = Trust(tmp_path / "signers")
    path = own / "provenance.intoto.json"
    content = attest(own, [], path)
    signature.sign(path, content, keys("me"), signature.STATEMENT)
    found = verify(path, trust)
    assert found.signer == "me@example.org" and found.compared > 40 and not found.absent
    lock = own / "conda-lock.yml"
    assert verify(lock, trust).what == f"is conda-lock.yml of {path}"
    copy = tmp_path / "from-elsewhere.yml"
    shutil.copy(lock, copy)
    assert verify(copy, trust, path).signer == "me@example.org"
    shutil.rmtree(own / "metadata")  # an auditor needn't have the inputs
    assert any(name.startswith("metadata/") for name in verify(path, trust).absent)


def unsigned(path: Path, key: Path) -> None:
    signature.signature_path(path).unlink()


def by_another(path: Path, key: Path) -> None:
    signature.sign(path, path.read_bytes(), key, signature.STATEMENT)


def of_another_kind(path: Path, key: Path) -> None:
    """Signed by the right key, but as a bundle."""
    signature.sign(path, path.read_bytes(), key.with_name("me"), signature.BUNDLE)


def altered(path: Path, key: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"environment.yml"', b'"other.yml"'))


def other_subject(path: Path, key: Path) -> None:
    lock = path.with_name("conda-lock.yml")
    lock.write_text(lock.read_text() + "# edited\n")


def lost_subject(path: Path, key: Path) -> None:
    path.with_name("conda-lock.yml").unlink()


def other_spec(path: Path, key: Path) -> None:
    spec = path.with_name("environment.yml")
    spec.write_text(spec.read_text() + "# edited\n")


BAD = {
    unsigned: "is not signed: provenance.intoto.json.sig is missing",
    by_another: "nobody in",
    of_another_kind: "the signature isn't me@example.org's for these bytes",
    altered: "the signature isn't me@example.org's for these bytes",
    other_subject: "1 of its .* subjects are not what it says: conda-lock.yml has SHA-256",
    lost_subject: "conda-lock.yml is missing",
    other_spec: "is out of date: environment.yml changed since",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_what_is_unsigned_wrongly_signed_or_stale_is_refused(
    own: Path, tmp_path: Path, keys: Callable[[str], Path], spoil: Callable[[Path, Path], None]
) -> None:
    path = own / "provenance.intoto.json"
    signature.sign(path, attest(own, [], path), keys("me"), signature.STATEMENT)
    spoil(path, keys("mallory"))
    with pytest.raises(VerificationError, match=BAD[spoil]) as caught:
        verify(path, Trust(tmp_path / "signers"))
    assert caught.value.exit_code == 4 and caught.value.remedy


def test_a_file_of_another_day_is_not_in_the_statement(own: Path, tmp_path: Path, keys: Callable[[str], Path]) -> None:
    path = own / "provenance.intoto.json"
    signature.sign(path, attest(own, [], path), keys("me"), signature.STATEMENT)
    lock = own / "conda-lock.yml"
    lock.write_text(lock.read_text() + "# edited\n")
    with pytest.raises(VerificationError, match="which has conda-lock.yml with SHA-256"):
        verify(lock, Trust(tmp_path / "signers"))
    with pytest.raises(InputError, match="no such file; expected a file of allowed signers"):
        verify(path, Trust(tmp_path / "none"))
    path.unlink()
    (tmp_path / "alone").write_text("x")
    with pytest.raises(VerificationError, match=r"is not signed: there is no alone\.intoto\.json"):
        verify(tmp_path / "alone", Trust(tmp_path / "signers"))


def test_a_bundle_is_verified_by_the_same_command(tmp_path: Path, keys: Callable[[str], Path]) -> None:
    sat, trust = small_bundle(tmp_path / "sat.pyz"), Trust(tmp_path / "signers")
    with pytest.raises(VerificationError, match="is not signed"):
        verify(sat, trust)
    signature.sign(sat, open_bundle(sat).tail, keys("me"))
    assert verify(sat, trust).what == "2 members, every byte as in its manifest"
    content = bytearray(sat.read_bytes())
    content[700_000] ^= 1
    sat.write_bytes(content)
    with pytest.raises(VerificationError, match="big: expected SHA-256"):
        verify(sat, trust)


SIGSTORE = """#!/bin/sh
[ "$COLUMNS" = 1000 ] && [ "$1 $2 $3" = "-I -m sigstore" ] || exit 9
case $4 in
    sign) [ -e refuse ] && { echo "ERROR    no network      errors.py:42" >&2; exit 1; }; echo "{}" > "$7" ;;
    verify) [ "$9" = "me@example.org" ] && [ "${11}" = "https://issuer.example.org" ] ;;
esac
"""


def test_sigstore_signs_and_is_asked_about_the_identity(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in that takes the arguments of sigstore 4: the real one needs its services."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").write_text(SIGSTORE)
    (tmp_path / "venv/bin/python").chmod(0o755)
    monkeypatch.setattr(sigstore, "tool_set", lambda *_: tmp_path / "venv")
    monkeypatch.chdir(tmp_path)
    path = own / "provenance.intoto.json"
    attest(own, [], path)
    trust = Trust(None, "me@example.org", "https://issuer.example.org")
    with pytest.raises(VerificationError, match=r"is not signed: provenance\.intoto\.json\.sigstore\.json is missing"):
        verify(path, trust)
    assert sigstore.sign(path).name == "provenance.intoto.json.sigstore.json"
    assert verify(path, trust).signer == "me@example.org"
    with pytest.raises(VerificationError, match="sigstore doesn't find that mallory signed it"):
        verify(path, Trust(None, "mallory", "https://issuer.example.org"))
    (tmp_path / "refuse").touch()
    with pytest.raises(SourceError, match="sigstore can't sign it: no network errors.py:42"):
        sigstore.sign(path)


FOREIGN = {
    "json of another kind": {"a": 1},
    "older in-toto": {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": statement.PREDICATE},
    "other predicate": {"_type": statement.TYPE, "predicateType": "https://spdx.dev/Document"},
    "no subject": {"_type": statement.TYPE, "predicateType": statement.PREDICATE, "subject": [],
                   "predicate": {"buildDefinition": {"resolvedDependencies": [], "externalParameters": {}}}},
    "path out of it": {"_type": statement.TYPE, "predicateType": statement.PREDICATE,
                       "subject": [{"name": "../../etc/passwd", "digest": {"sha256": "0"}}],
                       "predicate": {"buildDefinition": {"resolvedDependencies": [], "externalParameters": {}}}},
    "no predicate": {"_type": statement.TYPE, "predicateType": statement.PREDICATE, "subject": []},
    "subject without a digest": {"_type": statement.TYPE, "predicateType": statement.PREDICATE,
                                 "subject": [{"name": "a"}], "predicate": {"buildDefinition": {}}},
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_statement_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.intoto.json"
    write_atomically(path, json.dumps(FOREIGN[name]).encode())
    with pytest.raises(InputError, match="expected an in-toto statement") as caught:
        statement.read(path)
    assert str(path) in caught.value.message
    path.write_bytes(b"\xff{")
    with pytest.raises(SatenvError, match="expected an in-toto statement"):
        statement.read(path)

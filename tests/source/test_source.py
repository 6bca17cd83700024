"""What `--source` is read as, and what a folder as source never leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

import channelserver
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import InputError, SourceError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.wanted import INDEX, Wanted
from cogvideo_sat_env.source.source import Source, parse_source, parse_sources


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


def fetch(artefact: CondaArtefact, source: Source, folder: Path) -> Path:
    wanted = Wanted(artefact.file_name, folder / artefact.file_name, artefact.sha256, source.locate(artefact))
    fetch_files([wanted], title="t", what="w", progress=Silent())
    return wanted.path


@pytest.mark.parametrize("name", ["mirror", "a mirror", "m%20x", "mé", "t", "x?y#z", "$HOME"])
def test_a_folder_is_a_source_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "t" / name).mkdir(parents=True)
    file = tmp_path / "t" / name / "c" / "noarch" / "a-1-0.conda"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"bytes")
    artefact = CondaArtefact("a", "1", "0", "noarch", "https://h/c", file.name, f"https://h/c/noarch/{file.name}", SHA)
    for text in (f"mirror={tmp_path}/t/{name}", f"mirror=~/t/{name}", f"mirror={(tmp_path / 't' / name).as_uri()}/"):
        found = fetch(artefact, parse_source(text), tmp_path / "cache")
        assert found.read_bytes() == b"bytes"
        assert str(parse_source(text)) == f"mirror={(tmp_path / 't' / name).as_uri()}"
        found.unlink()


SHA = "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"


@pytest.mark.parametrize(
    "text",
    [
        "", "=", "mirror", "mirror=", "mirror= ", "channel=x", "auto=", "nowhere", "mirror=/no/such", "mirror=~nobody/x",
        "mirror=\x00", "mirror=" + "x" * 5000, "mirror=http://", "mirror=http://h:x/", "mirror=http://[::1", "mirror=ftp://h/",
        "mirror=http://h/a b", "mirror=http://h/\x1b[31m", "mirror=file:///no/such", "mirror=file://", "mirror=://h",
        "https://u:s3cret@h/c", "https://h/c?sig=s3cret", "mirror=gopher://u:s3cret@h/t/s3cret", "MIRROR=/tmp", "wheels=x",
    ],
)  # fmt: skip
def test_what_is_no_source_is_one_clear_error(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_source(text)
    assert caught.value.remedy and "s3cret" not in caught.value.message and "\x1b" not in caught.value.message


def test_several_sources_are_tried_in_order_and_the_others_stand_alone(tmp_path: Path) -> None:
    source = parse_sources([f"mirror={tmp_path}", "mirror=HTTPS://u:p@Mirror.example.org/c/?sig=x", "channel"])
    assert str(source) == f"mirror={tmp_path.as_uri()} mirror=https://Mirror.example.org/c/ channel"
    assert source.then[0].where.reveal() == "https://u:p@Mirror.example.org/c/?sig=x"
    with pytest.raises(InputError, match="goes with no other source"):
        parse_sources(["wheels", "channel"])


def test_a_folder_leads_to_no_network(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "mirror").mkdir()
    with channelserver.serving(tmp_path / "root") as server:
        (tmp_path / ".rattler").mkdir()
        (tmp_path / ".rattler" / "config.toml").write_text(
            f'[mirrors]\n"{tmp_path.as_uri()}" = ["{server.url}"]\n"file:///" = ["{server.url}"]\n'
        )
        source = parse_source(f"mirror={tmp_path / 'mirror'}")
        artefact = CondaArtefact("a", "1", "0", "noarch", f"{server.url}/c", "a-1-0.conda", f"{server.url}/x", SHA)
        with pytest.raises(SourceError, match="no such file"):
            fetch(artefact, source, tmp_path / "cache")
        assert source.find_links() == [f"{(tmp_path / 'mirror').as_uri()}/wheelhouse"]
        assert parse_sources([f"mirror={tmp_path / 'mirror'}", "channel"]).find_links() == [INDEX]
        assert server.requests == []

"""Credentials reach the server from wherever conda's users keep them, and no other place."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

import channelserver
from cogvideo_sat_env.base.errors import InputError, SourceError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.fetch import credentials
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.redact import redact
from cogvideo_sat_env.fetch.wanted import Policy, Wanted
from cogvideo_sat_env.source.source import parse_source

SECRET = "s3cr3t-pass"
LOGIN = "Basic " + b64encode(f"me:{SECRET}".encode()).decode()


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Ring(KeyringBackend):
    """A keyring with one entry."""

    priority = 1
    service, password = "", ""

    def get_password(self, service: str, username: str) -> str | None:
        return self.password if service == self.service else None

    def get_credential(self, service: str, username: str | None):
        if service != self.service:
            return None
        return keyring.credentials.SimpleCredential("me", self.password)

    def set_password(self, *_: str) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[channelserver.ChannelServer]:
    for name in ("NETRC", "RATTLER_AUTH_FILE", "CONDARC", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(keyring.core, "_keyring_backend", Ring())
    root = tmp_path / "root"
    (root / "t" / "tk-9" / "chan").mkdir(parents=True)
    (root / "chan").mkdir()
    for folder in (root / "chan", root / "t" / "tk-9" / "chan"):
        (folder / "a-1-0.conda").write_bytes(b"bytes")
    with channelserver.serving(root) as server:
        server.login = LOGIN
        yield server


def _fetch(tmp_path: Path, url: str, said: Said | None = None) -> None:
    wanted = Wanted("a-1-0.conda", tmp_path / "out" / "a-1-0.conda", hashlib.sha256(b"bytes").hexdigest(), (url,), 5)
    fetch_files([wanted], title="t", what="w", progress=said or Said(), policy=Policy(attempts=2, backoff=0.01))


def _netrc(home: Path, _: pytest.MonkeyPatch) -> None:
    (home / ".netrc").write_text(f"machine 127.0.0.1\nlogin me\npassword {SECRET}\n")
    (home / ".netrc").chmod(0o600)


def _rattler(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "auth.json").write_text(json.dumps({"127.0.0.1": {"BasicHTTP": {"username": "me", "password": SECRET}}}))
    patch.setenv("RATTLER_AUTH_FILE", str(home / "auth.json"))


def _keyring_host(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ring, "service", "127.0.0.1")
    patch.setattr(Ring, "password", SECRET)


def _keyring_rattler(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ring, "service", "rattler")
    patch.setattr(Ring, "password", json.dumps({"BasicHTTP": {"username": "me", "password": SECRET}}))


@pytest.mark.parametrize("prepare", [_netrc, _rattler, _keyring_host, _keyring_rattler])
def test_the_login_is_found(
    server: channelserver.ChannelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[..., None]
) -> None:
    prepare(tmp_path, monkeypatch)
    _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda")
    assert (tmp_path / "out" / "a-1-0.conda").read_bytes() == b"bytes"


def test_a_login_in_the_address_is_used_and_goes_nowhere_else(
    server: channelserver.ChannelServer, tmp_path: Path
) -> None:
    base = server.url.replace("://", f"://me:{SECRET}@")
    _fetch(tmp_path, f"{base}/chan/a-1-0.conda")
    said = Said()
    server.fail("a-1-0.conda", "flip", at=2)
    (tmp_path / "out" / "a-1-0.conda").unlink()
    with pytest.raises(Exception, match="expected SHA-256") as caught:
        _fetch(tmp_path, f"{base}/chan/a-1-0.conda", said)
    texts = [*said.lines, caught.value.message, str(parse_source(f"mirror={base}/t/tk-9"))]
    assert not any(SECRET in text or "tk-9" in text for text in texts) and len(said.lines) == 1


def test_a_conda_token_goes_into_the_path(
    server: channelserver.ChannelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.login = ""
    (tmp_path / "auth.json").write_text(json.dumps({"127.0.0.1": {"CondaToken": "tk-9"}}))
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "auth.json"))
    _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda")
    assert server.requests == ["/t/tk-9/chan/a-1-0.conda"]


def test_another_host_doesnt_get_the_login(server: channelserver.ChannelServer, tmp_path: Path) -> None:
    with channelserver.serving(tmp_path / "root") as other:
        server.redirect_to = other.url.replace("127.0.0.1", "localhost")
        server.login = ""
        _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda".replace("://", f"://me:{SECRET}@"))
        assert server.headers[0][1].get("Authorization") == LOGIN
        assert "Authorization" not in other.headers[0][1]


def test_without_a_login_the_refusal_says_where_one_is_looked_for(
    server: channelserver.ChannelServer, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="401") as caught:
        _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda")
    assert "netrc" in caught.value.remedy and "keyring" in caught.value.remedy


def test_a_broken_credentials_file_is_named_without_its_content(
    server: channelserver.ChannelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "auth.json").write_text('{"127.0.0.1": {"BearerToken": "' + SECRET)
    monkeypatch.setenv("RATTLER_AUTH_FILE", str(tmp_path / "auth.json"))
    with pytest.raises(InputError, match="auth.json") as caught:
        _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda")
    assert SECRET not in caught.value.message


def test_a_proxy_of_condarc_is_used(
    server: channelserver.ChannelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.login = ""
    (tmp_path / ".condarc").write_text(f"proxy_servers:\n  http: {server.url}\n")
    _fetch(tmp_path, "http://channel.invalid/chan/a-1-0.conda")
    assert server.requests == ["/chan/a-1-0.conda"]


def test_mirrors_of_rattlers_configuration_are_asked_in_order(
    server: channelserver.ChannelServer, tmp_path: Path
) -> None:
    server.login = ""
    (tmp_path / ".rattler").mkdir()
    (tmp_path / ".rattler" / "config.toml").write_text(
        f'[mirrors]\n"https://conda.example.org/chan" = ["{server.url}/none", "{server.url}/chan"]\n'
    )
    _fetch(tmp_path, "https://conda.example.org/chan/a-1-0.conda")
    assert server.requests == ["/none/a-1-0.conda", "/chan/a-1-0.conda"]
    (tmp_path / ".rattler" / "config.toml").write_text("mirrors = 3")
    (tmp_path / "out" / "a-1-0.conda").unlink()
    with pytest.raises(InputError, match="config.toml"):
        _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@host/x", "https://host/x"),
        ("https://host/t/tk-1/conda-forge", "https://host/t/<TOKEN>/conda-forge"),
        ("https://host/t/tk-1", "https://host/t/<TOKEN>"),
        ("https://host/x.conda?X-Amz-Signature=abc: 403", "https://host/x.conda?<QUERY> 403"),
        ("a: https://u:p@one/x; b: https://u2:p2@two/y", "a: https://one/x; b: https://two/y"),
    ],
)
def test_nothing_secret_is_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("fault", ["silent", "broken"])
def test_a_keyring_that_fails_or_never_answers_is_an_error(
    tmp_path: Path, server: channelserver.ChannelServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def ask(*_: str) -> str:
        if fault == "broken":
            raise RuntimeError(SECRET)
        threading.Event().wait()
        raise AssertionError("unreachable")

    monkeypatch.setattr(Ring, "get_password", ask)
    monkeypatch.setattr(credentials, "KEYRING_SECONDS", 0.2)
    reason = "RuntimeError" if fault == "broken" else "no answer in 0.2 s"
    with pytest.raises(InputError, match=f"keyring can't be asked for 127.0.0.1 .{reason}.") as refused:
        _fetch(tmp_path, f"{server.url}/chan/a-1-0.conda")
    assert "PYTHON_KEYRING_BACKEND" in str(refused.value.remedy)

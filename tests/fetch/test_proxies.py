"""Proxies of every kind are used; a dead one is named with the setting that names it."""

from __future__ import annotations

import hashlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import channelserver
from cogvideo_sat_env.base.errors import SourceError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.fetch.pip_errors import pip_error
from cogvideo_sat_env.fetch.pool import fetch_files
from cogvideo_sat_env.fetch.proxies import lend_socks
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.fetch.wanted import Policy, Wanted

SETTINGS = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
NAME = "a-1-0.conda"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "PIP_PROXY", "XDG_CONFIG_HOME", "CONDARC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[channelserver.ChannelServer]:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / NAME).write_bytes(b"bytes")
    with channelserver.serving(tmp_path / "root") as server:
        yield server


class SocksProxy:
    """SOCKS 5 without a login, for names: it leads everything to one port of this machine."""

    def __init__(self, port: int) -> None:
        self.port, self.asked = port, []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.recv(2 + client.recv(2)[1] - 2)
            client.sendall(b"\x05\x00")
            head = client.recv(5)
            self.asked.append(client.recv(head[4]).decode())
            client.recv(2)
            client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01" + struct.pack("!H", self.port))
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                pair = threading.Thread(target=_pipe, args=(server, client), daemon=True)
                pair.start()
                _pipe(client, server)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        return


def _fetch(tmp_path: Path, url: str) -> None:
    wanted = Wanted(NAME, tmp_path / "out" / NAME, hashlib.sha256(b"bytes").hexdigest(), (url,), 5)
    fetch_files([wanted], title="t", what="w", progress=Silent(), policy=Policy(attempts=1, stall=5))


@pytest.mark.parametrize("setting", ["ALL_PROXY", "http_proxy"])
def test_a_socks_proxy_is_used(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    proxy = SocksProxy(int(server.url.rpartition(":")[2]))
    monkeypatch.setenv(setting, f"socks5h://{proxy.place}")
    _fetch(tmp_path, f"http://conda.invalid/{NAME}")
    assert proxy.asked == ["conda.invalid"] and server.requests == [f"/{NAME}"]
    assert why_unreachable(f"http://conda.invalid/{NAME}") is None
    proxy.close()


def test_pips_python_is_lent_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lend_socks(tmp_path) == {}
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    code = "import socks, sys; sys.exit(not socks.__file__.startswith(sys.argv[1]))"
    run = subprocess.run(["python3", "-S", "-c", code, str(tmp_path)], env=lend_socks(tmp_path), check=False)
    assert run.returncode == 0 and [path.name for path in tmp_path.iterdir()][:1] == ["socks.py"]


@pytest.mark.fault("dead-proxy", "error", "names the proxy and the variable or file that sets it")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("setting", ["{}_proxy", "{}_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_dead_proxy_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str, setting: str
) -> None:
    setting = setting.format(scheme.upper() if setting.endswith("PROXY") else scheme)
    monkeypatch.setenv(setting, f"{kind}://me:s3cret@127.0.0.1:9")
    with pytest.raises(SourceError) as caught:
        _fetch(tmp_path, f"{scheme}://conda.invalid/{NAME}")
    assert f"through the proxy {kind}://127.0.0.1:9, which {setting} names" in caught.value.message
    assert f"unset {setting}" in caught.value.remedy and "s3cret" not in caught.value.message
    assert setting in (why_unreachable(f"{scheme}://conda.invalid/{NAME}") or "")


def test_a_dead_proxy_of_condarc_is_named(tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text("proxy_servers:\n  http: http://127.0.0.1:9\n")
    with pytest.raises(SourceError, match="which conda's or rattler's configuration"):
        _fetch(tmp_path, f"http://conda.invalid/{NAME}")


@pytest.mark.parametrize("value", ["gopher://127.0.0.1:9", "http://[::1", "socks9://127.0.0.1:9"])
def test_a_proxy_that_is_no_address_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(SourceError, match="ALL_PROXY"):
        _fetch(tmp_path, f"http://conda.invalid/{NAME}")


def test_a_dead_proxy_of_pip_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    output = "WARNING: Retrying after connection broken by 'ProxyError('Cannot connect to proxy.', OSError(111))': /x"
    monkeypatch.setenv("PIP_PROXY", "http://me:s3cret@127.0.0.1:9")
    assert "PIP_PROXY" in pip_error(output, "d").message and "s3cret" not in str(pip_error(output, "d"))
    monkeypatch.delenv("PIP_PROXY")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert "https_proxy" in pip_error(output, "d").remedy

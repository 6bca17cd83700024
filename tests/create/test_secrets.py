"""Secrets in the addresses of locks and mirrors reach the server and no other place."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import airgap
import channelserver
from airgap import Lab
from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.paths import current_platform

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]
TOKEN, USER, PASSWORD, SIGNATURE = "tk-0123456789abcdef", "jane.doe", "EXAMPLE+PW", "sig0123456789"
ACCOUNT = {"SITE_USER": USER, "SITE_PASS": PASSWORD, "SITE_TOKEN": TOKEN}
WRITTEN = {
    "login": "http://jane.doe:EXAMPLE%2BPW@HOST/t/tk-0123456789abcdef/conda-forge",
    "token": "http://HOST/t/tk-0123456789abcdef/conda-forge?sig=sig0123456789",
    "variables": "http://$SITE_USER:${SITE_PASS}@HOST/t/$SITE_TOKEN/conda-forge",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = airgap.make_world(tmp_path_factory.mktemp("world"))
    (root / "t" / TOKEN).mkdir(parents=True)
    (root / "conda-forge").rename(root / "t" / TOKEN / "conda-forge")  # nothing is served without the token
    (root / "t" / TOKEN / "conda-forge").joinpath("x").write_text("")
    return root


@pytest.fixture
def lab(world: Path, project: Path, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "home").mkdir()
    (project / "src").symlink_to(airgap.PROJECT / "src")
    (project / "scripts").mkdir(exist_ok=True)
    for name in ("tool-requirements.txt", "tool-maintainer-requirements.txt"):
        (project / "scripts" / name).write_text("# none: the test's Python has them\n")
    with channelserver.serving(world) as server:
        yield Lab(project, server, tmp_path / "home")


def own_lock(lab: Lab, written: str) -> Path:
    """Write a lock whose addresses are `written`."""
    base = written.replace("HOST", lab.server.url.removeprefix("http://"))
    path = lab.home.parent / "own-conda-lock.yml"
    lab.write_lock(airgap.locked(lab.server.root / "t" / TOKEN, "https://conda.example.org/c")[:2], path=str(path))
    content = yaml.safe_load(path.read_text())
    content["metadata"]["channels"] = [{"url": base, "used_env_vars": []}]
    channel, mark, query = base.partition("?")
    for entry in content["package"]:
        entry["url"] = entry["url"].replace("https://conda.example.org/c", channel) + mark + query
    path.write_text(yaml.safe_dump(content))
    return path


def leaks(*places: Path, texts: tuple[str, ...] = ()) -> list[str]:
    """Return where a secret is: in a file's bytes or name below `places`, or in `texts`."""
    words = [word.encode() for word in (TOKEN, PASSWORD, "EXAMPLE%2BPW", SIGNATURE, USER)]
    words.append(b64encode(f"{USER}:{PASSWORD}".encode()))
    found = [text for text in texts if any(word in text.encode() for word in words)]
    for place in places:
        for path in [place, *place.rglob("*")]:
            content = path.read_bytes() if path.is_file() else b""
            if any(word in content or word in str(path).encode() for word in words):
                found.append(str(path))
    return found


@pytest.mark.fault(
    "secrets", "environment", "they reach the server; prefix, cache, mirror, bundle and output hold none"
)
@pytest.mark.parametrize("form", WRITTEN)
def test_what_a_run_leaves_holds_no_secret(lab: Lab, form: str) -> None:
    lock = own_lock(lab, WRITTEN[form])
    lab.server.login = "" if form == "token" else "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    prefix, mirror, bundle = lab.home / "envs" / "sat", lab.home / "mirror", lab.home / "sat.pyz"
    common = ("--variant", "cpu", "--lock", str(lock))
    runs = [
        lab.satenv("create", "-p", str(prefix), "--no-doctor", "--json", *common, **ACCOUNT),
        lab.satenv("mirror", str(mirror), *common, **ACCOUNT),
        lab.satenv("bundle", "pack", str(bundle), "--from", str(mirror), *common, **ACCOUNT),
        lab.satenv("bundle", "list", str(bundle), "--json"),
    ]
    for run in runs:
        assert run.returncode == 0, run.stdout + run.stderr
    assert leaks(lab.home, texts=tuple(run.stdout + run.stderr for run in runs)) == []
    assert [path.name for path in mirror.iterdir() if path.is_dir() and path.name[0] != "."] == ["conda-forge"]
    receipt = json.loads((prefix / "etc/cogvideo-sat-env/receipt.json").read_text())
    record = json.loads(next((prefix / "conda-meta").glob("*.json")).read_text())
    kept = [package["url"] for package in receipt["packages"]] + [record["url"], record["channel"]]
    assert all(("$SITE_TOKEN" in url) == (form == "variables") for url in kept), kept
    again = lab.satenv("create", "-p", str(prefix), "--no-doctor", *common)
    assert again.returncode == 0 and "up to date" in again.stdout


def test_a_refusal_shows_no_secret(lab: Lab) -> None:
    lock, prefix = own_lock(lab, WRITTEN["login"]), str(lab.home / "envs" / "sat")
    lab.server.login = "Basic nobody"
    common = ("create", "-p", prefix, "--no-doctor", "--variant", "cpu", "--lock", str(lock))
    base = WRITTEN["token"].replace("HOST", lab.server.url.removeprefix("http://"))
    runs = [lab.satenv(*common), lab.satenv(*common, "--json"), lab.satenv(*common, "--source", f"mirror={base}")]
    runs.append(lab.satenv("create", "-p", prefix, "--source", f"mirror={base.replace('http', 'gopher')}"))
    lab.server.close()
    runs += [lab.satenv(*common), lab.satenv("mirror", str(lab.home / "m"), "--lock", str(lock), "--from", base)]
    assert all(run.returncode in (3, 5) and "Traceback" not in run.stderr for run in runs)
    assert leaks(lab.home, texts=tuple(run.stdout + run.stderr for run in runs)) == []


@pytest.mark.fault("unset-variable", "error", "names the variables, before anything is asked")
def test_a_variable_that_is_not_set_is_one_clear_error(lab: Lab) -> None:
    lock = own_lock(lab, WRITTEN["variables"])
    run = lab.satenv(
        "create", "-p", str(lab.home / "envs" / "sat"), "--lock", str(lock), "--variant", "cpu", SITE_USER=USER
    )
    assert run.returncode == 3 and "needs SITE_PASS, SITE_TOKEN from the environment" in run.stderr, run.stderr
    assert run.stderr.count("satenv:") == 1 and lab.server.requests == []


@pytest.mark.parametrize(
    ("written", "shown", "asked"),
    [
        ("https://u:p@host/c", "https://host/c", "https://u:p@host/c"),
        ("HTTPS://tok@[::1]:8443/a@b/c", "https://[::1]:8443/a@b/c", "https://tok@[::1]:8443/a@b/c"),
        ("https://u%40x:p%2F@host/c", "https://host/c", "https://u%40x:p%2F@host/c"),
        ("https://u:p/w?x#y@host/c", "https://host/c", "https://u:p%2Fw%3Fx%23y@host/c"),
        ("https://host/get/t/TK/c?a=b#f", "https://host/get/c", "https://host/get/t/TK/c?a=b#f"),
        ("https://host/t/TK", "https://host", "https://host/t/TK"),
        ("https://$U@host/t/${T}/c", "https://$U@host/t/${T}/c", "https://a%2Fb@host/t/tk/c"),
        ("https://jane:$U@host/c", "https://host/c", "https://jane:a%2Fb@host/c"),
        ("file:///home/t/me/$U/c", "file:///home/t/me/$U/c", "file:///home/t/me/$U/c"),
        ("git+https://u:p@host/a.git@0f", "git+https://host/a.git@0f", "git+https://u:p@host/a.git@0f"),
        ("conda-forge", "conda-forge", "conda-forge"),
    ],
)
def test_an_address_shows_its_public_form_everywhere(
    written: str, shown: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy
    import pickle

    monkeypatch.setenv("U", "a/b")
    monkeypatch.setenv("T", "tk")
    address = Address(written)
    forms = [str(address), f"{address}", f"{address:s}", "%s" % address, json.loads(json.dumps(address)), address + ""]  # noqa: UP031
    forms += [repr(address)[1:-1], str(pickle.loads(pickle.dumps(address))), str(copy.deepcopy(address))]
    assert set(forms) == {shown} and address.reveal() == asked
    assert Address(address).reveal() == asked and (address / "x").reveal().count("x") == asked.count("x") + 1


def test_packages_of_a_signed_address_keep_the_signature(lab: Lab) -> None:
    channel, subdir, name = Address("https://host/t/TK/c/noarch/a-1-0.conda?sig=1").package()
    assert (subdir, name, str(channel)) == ("noarch", "a-1-0.conda", "https://host/c")
    assert (channel / "noarch/a-1-0.conda").reveal() == "https://host/t/TK/c/noarch/a-1-0.conda?sig=1"
    found = replace(airgap.locked(lab.server.root / "t" / TOKEN, "https://u:p@h/c")[0], name="n")
    assert str(found.url).startswith("https://h/c/") and found.url.reveal().startswith("https://u:p@h/c/")

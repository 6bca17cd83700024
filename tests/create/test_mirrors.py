"""`satenv create` with several mirrors: each file comes from the first that has it right."""

from __future__ import annotations

import base64
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import channelserver
import packages
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import current_platform
from cogvideo_sat_env.source.source import parse_sources

from .test_create import Machine, channel, machine  # noqa: F401 - fixtures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(current_platform() != "linux-64", reason="the project's locks are for linux-64"),
]
LINKED = "linked-1.0-h0_0.conda"
TWICE = ("--no-doctor", "--variant", "cpu", "--json")


@pytest.fixture
def second(channel: Path) -> Iterator[channelserver.ChannelServer]:  # noqa: F811
    with channelserver.serving(channel) as server:
        yield server


def _create(machine: Machine, *sources: str, ok: bool = True) -> tuple[dict, str]:  # noqa: F811
    arguments = [part for source in sources for part in ("--source", source)]
    run = machine.satenv("create", *TWICE, *arguments, "-p", str(machine.home / "env"))
    assert (run.returncode == 0) is ok and "Traceback" not in run.stderr, run.stdout + run.stderr
    return json.loads(run.stdout), run.stderr


@pytest.mark.parametrize("kind", ["404", "503", "flip", "loop", "truncate"])
def test_what_one_mirror_has_wrong_comes_from_the_next(machine, second, kind):  # noqa: F811
    machine.server.fail(LINKED, kind)
    made, said = _create(machine, f"mirror={machine.server.url}", f"mirror={second.url}")
    assert made["status"] == "created"
    assert second.fetched() == [f"/conda-forge/linux-64/{LINKED}"], "nothing else is asked of the second"
    assert "trying the next source" in said and machine.server.url in said
    receipt = json.loads((machine.home / "env/etc/cogvideo-sat-env/receipt.json").read_text())
    assert receipt["source"] == f"mirror={machine.server.url} mirror={second.url}"


def test_a_dead_mirror_is_not_asked_for_every_file(machine, second, channel):  # noqa: F811
    dead = machine.server.url
    machine.write_lock(packages.artefacts(channel / "conda-forge", "https://conda.example.org/conda-forge"))
    for name in os.listdir(channel / "conda-forge/linux-64") + os.listdir(channel / "conda-forge/noarch"):
        machine.server.fail(name, "503")
    from cogvideo_sat_env.base.progress import Silent
    from cogvideo_sat_env.fetch.pool import fetch_files
    from cogvideo_sat_env.fetch.wanted import Policy, Wanted

    wanted = [
        Wanted(
            a.file_name,
            machine.home / a.file_name,
            a.sha256,
            (f"{dead}/{a.channel_path}", f"{second.url}/{a.channel_path}"),
        )
        for a in packages.artefacts(channel / "conda-forge", "https://conda.example.org/conda-forge")
    ]
    fetch_files(wanted, title="t", what="t", progress=Silent(), policy=Policy(jobs=1, backoff=0.01))
    assert len(machine.server.fetched()) == 2 and len(second.fetched()) == len(wanted) == 4


def test_an_away_mirror_a_folder_and_the_channel_in_order(machine, second, channel, tmp_path):  # noqa: F811
    machine.write_lock(packages.artefacts(channel / "conda-forge", f"{second.url}/conda-forge"))
    machine.server.close()
    (tmp_path / "part").mkdir()
    shutil.copytree(channel / "conda-forge" / "noarch", tmp_path / "part" / "conda-forge" / "noarch")
    folder = f"mirror={tmp_path / 'part'}"
    _create(machine, f"mirror={machine.server.url}", folder, "channel")
    assert sorted(second.fetched()) == sorted(
        f"/conda-forge/linux-64/{name}"
        for name in os.listdir(channel / "conda-forge/linux-64")
        if name.endswith("conda")
    )
    again, _ = _create(machine, folder, "channel")
    assert again["status"] == "up-to-date", "the same bytes from other mirrors are the same environment"


def test_when_no_mirror_has_it_every_one_is_named(machine, second):  # noqa: F811
    machine.server.fail(LINKED, "404")
    second.fail(LINKED, "flip")
    failed, _ = _create(machine, f"mirror={machine.server.url}", f"mirror={second.url}", ok=False)
    assert failed["exit_code"] == 4 and "none of 2 sources has it" in failed["error"]
    assert machine.server.url in failed["error"] and second.url in failed["error"]
    assert not (machine.home / "env").exists()


def test_an_update_takes_the_mirrors_that_it_was_made_from(machine, second, channel):  # noqa: F811
    _create(machine, f"mirror={machine.server.url}", f"mirror={second.url}")
    machine.write_lock(packages.artefacts(channel / "conda-forge", "https://conda.example.org/conda-forge")[:3])
    shutil.rmtree(machine.home / "cache")
    machine.server.close()
    run = machine.satenv("update", "--no-doctor", "-p", str(machine.home / "env"))
    assert run.returncode == 0, run.stderr
    assert ": updated from mirror=" in run.stdout and len(second.fetched()) == 3


def test_channels_that_want_a_login_are_asked_with_it(machine):  # noqa: F811
    machine.server.login = "Basic " + base64.b64encode(b"me:secret").decode()
    netrc = machine.home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    run = machine.create()
    assert run.returncode == 0 and "Source: the lock's channels, which answer" in run.stderr, run.stderr
    assert "secret" not in run.stderr + run.stdout


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["auto", "channel"], "--source auto goes with no other source"),
        (["mirror=http://127.0.0.1:9", "wheels"], "--source wheels goes with no other source"),
        (["channel", "mirror=/no/such/folder"], "/no/such/folder: no such folder"),
        (["mirror=s3://bucket/x"], "expected the address of a web server"),
        (["mirror=http://127.0.0.1:9/a b"], "expected the address of a web server"),
    ],
)
def test_sources_that_make_no_sense_are_named(sources, said):
    with pytest.raises(InputError, match=said):
        parse_sources(sources)


def test_pip_files_come_from_the_first_wheelhouse_that_has_them_right(machine, second, channel, tmp_path):  # noqa: F811
    import airgap

    root = tmp_path / "root"
    shutil.copytree(channel, root)
    packages.make_host_python(root / "conda-forge", packages.pip_wheels(tmp_path / "wheels"))
    airgap.make_wheel(root / "wheelhouse")
    airgap.make_wheel(root / "files")
    (root / "wheelhouse" / "index.html").write_text(f'<a href="{airgap.WHEEL}">{airgap.WHEEL}</a>')
    lab = airgap.Lab(machine.project, machine.server, machine.home)
    found = packages.artefacts(root / "conda-forge", "https://conda.example.org/conda-forge")
    lab.write_lock(found, [airgap.wheel_pin(root)])
    machine.server.root = second.root = root
    machine.server.fail(airgap.WHEEL, "flip")
    _, said = _create(machine, f"mirror={machine.server.url}", f"mirror={second.url}")
    assert f"{airgap.WHEEL} from {machine.server.url}/wheelhouse" in said and "trying the next source" in said
    assert f"/wheelhouse/{airgap.WHEEL}" in second.fetched(".whl")
    site = packages.site_packages(machine.home / "env")
    assert (site / "tinywheel.py").read_text() == "VALUE = 42\n"
    with zipfile.ZipFile(root / "wheelhouse" / airgap.WHEEL) as wheel:
        assert "tinywheel.py" in wheel.namelist()

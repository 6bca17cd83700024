"""Our `conda` answers conda-lock as conda does: the same arguments in, the same JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"


def conda(*args: str, **variables: str) -> tuple[int, dict]:
    run = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env.lock.conda_frontend", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "CONDA_SUBDIR": "linux-64", **variables},
    )
    return run.returncode, json.loads(run.stdout)


@pytest.fixture
def virtual_channel(tmp_path):
    """The channel that conda-lock generates for the virtual packages."""
    folder = tmp_path / "conda-lock-fake-repodata-test"
    for subdir, packages in {"noarch": {}, "linux-64": {"__glibc": "2.28", "__cuda": "12.9", "__unix": "0"}}.items():
        records = {
            f"{name}-{version}-0.tar.bz2": {"name": name, "version": version, "build": "0", "subdir": subdir}
            for name, version in packages.items()
        }
        (folder / subdir).mkdir(parents=True)
        (folder / subdir / "repodata.json").write_text(json.dumps({"info": {"subdir": subdir}, "packages": records}))
    return folder.as_uri()


def create(channels, *specs, **variables):
    flags = [part for channel in channels for part in ("--channel", channel)]
    base = ["create", "--prefix", "/nowhere", "--dry-run", "--json", "--override-channels"]
    return conda(*base, *flags, *specs, **variables)


def test_a_dry_run_gives_every_package_with_url_and_hashes(frozen_urls, virtual_channel):
    code, answer = create([*frozen_urls, virtual_channel], "numpy 2.*", "python 3.11.*")
    assert code == 0
    fetched = {record["name"]: record for record in answer["actions"]["FETCH"]}
    assert fetched["python"]["version"].startswith("3.11.")
    for record in fetched.values():
        assert record["url"].startswith("file://")
        assert len(record["sha256"]) == 64 and len(record["md5"]) == 32
        assert isinstance(record["depends"], list)
    linked = {record["name"]: record for record in answer["actions"]["LINK"]}
    assert set(linked) == set(fetched)
    assert linked["numpy"]["dist_name"] == f"numpy-{fetched['numpy']['version']}-{fetched['numpy']['build']}"


def test_the_generated_channel_becomes_virtual_packages(frozen_urls, virtual_channel):
    code, _ = create([*frozen_urls, virtual_channel], "cuda-version 12.9.*", "pytorch * cuda*", "python 3.11.*")
    assert code == 0
    code, answer = create(frozen_urls, "cuda-version 12.9.*", "pytorch * cuda*", "python 3.11.*")
    assert code == 1
    assert "__cuda" in answer["message"]


def test_what_cannot_be_solved_is_said_in_condas_json(frozen_urls, virtual_channel):
    code, answer = create([*frozen_urls, virtual_channel], "kornia >=99")
    assert code == 1
    assert answer["success"] is False
    assert "kornia >=99" in answer["message"]


def installed(prefix: Path, records: list[dict]) -> None:
    meta = prefix / "conda-meta"
    meta.mkdir(parents=True)
    for record in records:
        name = record["url"].rpartition("/")[2].removesuffix(".conda").removesuffix(".tar.bz2")
        (meta / f"{name}.json").write_text(json.dumps({key: record[key] for key in ("name", "version", "url")}))


def test_an_update_moves_only_what_it_must(frozen_urls, virtual_channel, tmp_path):
    channels = [*frozen_urls, virtual_channel]
    _, old = create(channels, "numpy 2.3.*", "python 3.11.*", "scipy")
    installed(tmp_path / "prefix", old["actions"]["FETCH"])
    flags = [part for channel in channels for part in ("--channel", channel)]
    arguments = ["install", "--override-channels", *flags, "-p", str(tmp_path / "prefix"), "--json", "--dry-run"]
    code, answer = conda(*arguments, "numpy 2.*")
    assert code == 0
    assert [record["name"] for record in answer["actions"]["LINK"]] == ["numpy"]
    assert not answer["actions"]["FETCH"][0]["version"].startswith("2.3.")


def test_an_update_stays_inside_the_bounds_of_the_spec(frozen_urls, virtual_channel, tmp_path):
    channels = [*frozen_urls, virtual_channel]
    _, old = create(channels, "numpy 2.2.*", "python 3.11.*")
    installed(tmp_path / "prefix", old["actions"]["FETCH"])
    flags = [part for channel in channels for part in ("--channel", channel)]
    arguments = ["install", "--override-channels", *flags, "-p", str(tmp_path / "prefix"), "--json", "--dry-run"]
    bounds = json.dumps(["numpy >=2,<2.4"])
    _, answer = conda(*arguments, "numpy", SATENV_FRONTEND_CONSTRAINTS=bounds)
    assert [record["version"][:3] for record in answer["actions"]["FETCH"] if record["name"] == "numpy"] == ["2.3"]


def test_list_and_info_answer_what_conda_lock_asks(frozen_urls, virtual_channel, tmp_path):
    _, plan = create([*frozen_urls, virtual_channel], "zlib")
    installed(tmp_path / "prefix", plan["actions"]["FETCH"])
    _, listed = conda("list", "--no-pip", "-p", str(tmp_path / "prefix"), "--json")
    assert {record["name"] for record in listed} == {record["name"] for record in plan["actions"]["FETCH"]}
    _, info = conda("info", "--json", CONDA_PKGS_DIRS=str(tmp_path))
    assert info["pkgs_dirs"] == [str(tmp_path)]

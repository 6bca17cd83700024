"""A first site file: asked of programs that answer as real clusters do, and of a Slurm that doesn't answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError
from cogvideo_sat_env.cluster.slurm import ask, site
from cogvideo_sat_env.doctor.checks._mounts import Mount

SINFO = """cpu*|1-00:00:00|200|(null)|(null)
gpu|2-00:00:00|12|gpu:a100:4(S:0-1)|a100,nvlink
gpu|2-00:00:00|2|gpu:v100:2|v100
debug|30:00|1|gpu:4,nvme:1|(null)
"""


class Login:
    """A login node: its programs answer with these texts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        for name in ("SCRATCH", "WORK", "PROJECT", "WORKDIR", "SLURM_TMPDIR", "TMPDIR", "LMOD_PKG", "MODULESHOME",
                     "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):  # fmt: skip
            monkeypatch.delenv(name, raising=False)
        self.answers("sinfo", SINFO)
        self.answers("scontrol", "ClusterName             = island\nJobRequeue              = 1\n")
        self.answers("sacctmgr", "proj-video\n")

    def answers(self, program: str, text: str, code: int = 0) -> None:
        (self.folder / f"{program}.txt").write_text(text, encoding="utf-8")
        out = "" if code == 0 else " >&2"
        (self.folder / program).write_text(f'#!/bin/sh\ncat "$0.txt"{out}\nexit {code}\n', encoding="utf-8")
        (self.folder / program).chmod(0o755)


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    return Login(tmp_path / "bin", monkeypatch)


def written(tmp_path: Path) -> tuple[str, site.Site]:
    """Write a site file; return its text, and what satenv reads in it."""
    target = tmp_path / "site.yml"
    told = ask.write_site(str(target), False)
    assert "lines are known" in told
    return target.read_text(encoding="utf-8"), site.read(target)


def test_what_is_known_is_a_value_and_the_rest_a_comment(login: Login, tmp_path: Path) -> None:
    text, found = written(tmp_path)
    assert (found.name, found.partition, found.gpu_type, found.time) == ("island", "gpu", "a100", "2-00:00:00")
    assert found.account == "proj-video"
    assert "# partition debug: 1 nodes, 4 GPUs a node, time limit 30:00" in text
    assert "# interface: " in text and "# proxies: " in text and "# root: " in text


def test_what_slurm_does_not_say_stays_a_comment(login: Login, tmp_path: Path) -> None:
    login.answers("sinfo", "batch*|infinite|3|(null)|(null)\n")
    login.answers("scontrol", "Access/permission denied", code=1)
    login.answers("sacctmgr", "You are not running a supported accounting_storage plugin", code=1)
    text, found = written(tmp_path)
    assert (found.partition, found.time, found.account, found.name, found.gpu_type) == ("batch", "", "", "", "")
    assert '# time: "24:00:00"' in text and "# account: " in text


def test_two_accounts_are_the_users_choice(login: Login, tmp_path: Path) -> None:
    login.answers("sacctmgr", "proj-a\nproj-b\nproj-a\n")
    text, found = written(tmp_path)
    assert found.account == "" and "proj-a, proj-b" in text


def test_folders_and_proxies_come_from_the_users_variables(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "kind_of", lambda path: Mount(path, "lustre" if "lus" in str(path) else "xfs"))
    for name in ("lus", "own"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SCRATCH", str(tmp_path / "lus"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own"))
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    monkeypatch.setenv("http_proxy", "http://ana:secret@proxy.example.org:3128")
    text, found = written(tmp_path)
    assert (found.scratch, found.node_tmp) == ("$SCRATCH", "$TMPDIR") and "lustre, shared" in text
    assert found.proxies == {"https": "http://proxy.example.org:3128"} and "secret" not in text


def test_modules_that_are_there_are_named(login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = tmp_path / "lmod" / "init"
    init.mkdir(parents=True)
    (init / "bash").write_text("module() { printf '/apps:\\ncuda/12.9\\ngcc/13\\nvim/9\\n' >&2; }\n", encoding="utf-8")
    monkeypatch.setenv("LMOD_PKG", str(init.parent))
    text, found = written(tmp_path)
    assert found.module_init == str(init / "bash") and "cuda/12.9, gcc/13" in text and "vim" not in text


def test_a_slurm_that_does_not_answer_is_one_error(login: Login, tmp_path: Path) -> None:
    login.answers("sinfo", "slurm_load_partitions: Unable to contact slurm controller", code=1)
    with pytest.raises(SatenvError, match="sinfo: .*Unable to contact"):
        ask.write_site(str(tmp_path / "site.yml"), False)
    assert not (tmp_path / "site.yml").exists()


def test_a_site_file_is_never_overwritten_unasked(login: Login, tmp_path: Path) -> None:
    (tmp_path / "site.yml").write_text("name: mine\n", encoding="utf-8")
    with pytest.raises(InputError, match="is there already"):
        ask.write_site(str(tmp_path / "site.yml"), False)
    ask.write_site(str(tmp_path / "site.yml"), True)
    assert "island" in (tmp_path / "site.yml").read_text(encoding="utf-8")
    with pytest.raises(PrefixError, match="expected to write the site file"):
        ask.write_site(str(tmp_path / "site.yml" / "x.yml"), False)
    assert ask.write_site("-", False).startswith("# A site file")

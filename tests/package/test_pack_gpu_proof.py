"""scripts/gpu-proof: what is packed, and what its start does on a machine."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, MissingToolError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.doctor import gpu_proof as proof
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts
from cogvideo_sat_env.package import pack_gpu_proof

PROJECT = Path(__file__).parents[2]
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
PATCH = "--- a/toy/__init__.py\n+++ b/toy/__init__.py\n@@ -1,1 +1,1 @@\n-VALUE = 1\n+VALUE = 2\n"


class Machine:
    """A machine with these GPUs."""

    def __init__(self, *gpus: Gpu) -> None:
        self._facts = GpuFacts("570.1" if gpus else None, gpus)

    def gpu_facts(self) -> GpuFacts:
        return self._facts

    def links(self) -> tuple[()]:
        return ()


def toy_wheel(folder: Path, name: str = "toy-1.0-py3-none-any.whl") -> Path:
    files = {
        "toy/__init__.py": "VALUE = 1\n",
        "toy-1.0.data/scripts/toy": "#!/bin/sh\necho toy\n",
        "toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
        "Requires-Dist: torch\nRequires-Dist: wandb\nRequires-Dist: einops\nRequires-Dist: tomli; python_version < '3.11'\n"
        "Requires-Dist: pywin32; sys_platform == 'win32'\nRequires-Dist: sphinx; extra == 'docs'\n",
        "toy-1.0.dist-info/RECORD": "toy/__init__.py,,\n",
    }
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return folder / name


@pytest.fixture
def toy_project(tmp_path: Path) -> Path:
    patches = tmp_path / "project" / "recipe" / "patches" / "toy"
    patches.mkdir(parents=True)
    (patches / "0001-two.patch").write_text(PATCH)
    return tmp_path / "project"


def test_wheels_are_unpacked_with_our_patches_applied_the_same_bytes_each_time(
    toy_project: Path, tmp_path: Path
) -> None:
    wheel = toy_wheel(tmp_path)
    before = hashlib.sha256(wheel.read_bytes()).hexdigest()
    payloads = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        payloads.append(pack_gpu_proof._payload({"any": [wheel]}, toy_project, tmp_path / name, Silent()))
    assert payloads[0] == payloads[1]
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == before, "the cache's own file was changed"
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(payloads[0]))) as archive:
        members = {member.name: (member.mode, archive.extractfile(member).read()) for member in archive}
    assert members["any/toy/__init__.py"] == (0o644, b"VALUE = 2\n")
    assert members["any/bin/toy"][0] == 0o755


def test_what_is_packed_is_what_the_roots_require_on_linux_but_for_the_machines_own(tmp_path: Path) -> None:
    wheel = toy_wheel(tmp_path)
    assert list(pack_gpu_proof._requires(wheel, "3.11")) == ["einops"]
    assert list(pack_gpu_proof._requires(wheel, "3.10")) == ["einops", "tomli"]


def test_a_wheel_that_several_pythons_share_is_there_once() -> None:
    pure, own, newer = (Path(name) for name in ("pure.whl", "own310.whl", "newer.whl"))
    found = {"3.10": {"a": pure, "b": own}, "3.11": {"a": pure, "b": newer}, "3.12": {"a": pure, "b": newer}}
    assert pack_gpu_proof._groups(found) == {"any": [pure], "cp310": [own], "cp311-cp312": [newer]}


@pytest.mark.parametrize(("name", "words"), [("out.zip", "ends with .tar.gz"), ("none/out.tar.gz", "no such folder")])
def test_a_target_that_cant_be_is_refused_before_anything_is_fetched(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pack_gpu_proof.pack(tmp_path / name, PROJECT, Silent())


def test_the_packed_start_names_all_that_the_machine_lacks_before_anything_starts(tmp_path: Path) -> None:
    """As on a machine: the real file with an almost empty payload, unpacked, and started twice at once."""
    payload = pack_gpu_proof._payload({TAG: [toy_wheel(tmp_path)]}, tmp_path, tmp_path, Silent())
    pack_gpu_proof._write(tmp_path / "out.tar.gz", PROJECT, payload)
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        archive.extractall(tmp_path)
    home = tmp_path / "gpu-proof"
    environ = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([home / "run", tmp_path / "r"], env=environ, text=True, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in runs:
        _, words = process.communicate(timeout=60)
        assert process.returncode == 8 and "no torch, no numpy, no triton" in words and "PYTHON=" in words, words
    (place,) = home.glob("lib-*")
    assert (place / TAG / "toy" / "__init__.py").is_file()
    assert sorted(path.name for path in home.iterdir() if path.name.startswith(".")) == []
    done = subprocess.run(
        [home / "run", "satenv", "doctor", "--list"], env=environ, capture_output=True, text=True, check=True
    )
    assert "toolchain.fused-ema-adam" in done.stdout
    (home / "payload.tar.xz").write_bytes(payload[: len(payload) // 2])
    done = subprocess.run([home / "run"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "payload.tar.xz is damaged" in done.stderr and "Traceback" not in done.stderr
    assert list(home.glob("*lib-*")) == [place], "of the broken one nothing may stay"


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules by the names that the machine has to have: they are looked for, no check that is used here imports them."""
    for name in ("torch", "numpy", "triton"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


@pytest.mark.usefixtures("own_modules")
def test_a_report_without_a_gpu_says_that_it_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "CHECKS", ("hardware.limits", "hardware.memory"))
    (tmp_path / "report.json").write_text('{"proof": {"proven": true}}')  # of a run before
    assert proof.prove(tmp_path, tmp_path, Machine()) == 1
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["ok"] and content["proof"]["proven"] is False and content["proof"]["ran_on_gpu"] == []
    assert "NO CHECK RAN ON A GPU" in capsys.readouterr().out


@pytest.mark.usefixtures("own_modules")
def test_a_report_names_the_checks_that_ran_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "CHECKS", ("hardware.limits", "hardware.memory"))
    assert proof.prove(tmp_path, tmp_path, Machine(Gpu(0, "NVIDIA H100", 81559, "9.0"))) == 0
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["proof"]["proven"] and content["proof"]["ran_on_gpu"] == ["hardware.memory"]
    assert "hardware" in (tmp_path / "report.txt").read_text()


def test_a_missing_module_is_an_error_and_no_report_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_NEEDED", ("json", "no_such_module"))
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(MissingToolError, match="has no no_such_module:"):
        proof.prove(tmp_path, tmp_path, Machine())
    assert not (tmp_path / "report.json").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder"):
        proof.prove(tmp_path, tmp_path / "file", Machine())

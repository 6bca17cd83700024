"""`pip install .` gives a working `satenv`, with its data, its locks and a clear word on what it leaves out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import airgap

pytestmark = pytest.mark.e2e


def test_pip_install_gives_a_working_command(tmp_path: Path) -> None:
    venv, source = tmp_path / "venv", tmp_path / "source"  # setuptools writes into its source
    leave_out = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests", "docs", "metadata")
    shutil.copytree(airgap.PROJECT, source, ignore=leave_out)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    library = next(venv.glob("lib/python3*/site-packages"))
    (library / "tools.pth").write_text(sysconfig.get_path("purelib") + "\n")  # the dependencies: the tests' own
    subprocess.run([venv / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", str(source)], check=True)

    def satenv(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        return subprocess.run(["satenv", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path,
                              env=environment)  # fmt: skip

    assert "0." in satenv("--version").stdout
    assert "webdataset" in satenv("why", "webdataset").stdout
    made = satenv("create", "--source", f"mirror={tmp_path / 'none'}", "--variant", "cpu", "-p", str(tmp_path / "e"))
    assert made.returncode == 3 and "none: no such folder" in made.stderr and "environment.yml" not in made.stderr, (
        made.stderr
    )
    packed = satenv("bundle", "pack", "x.pyz", "--mirror", "m", "--variant", "cpu")
    assert packed.returncode in (3, 5) and "Traceback" not in packed.stderr, packed.stderr
    checked = satenv("check")
    assert checked.returncode in (1, 3, 8) and "Traceback" not in checked.stderr, checked.stderr

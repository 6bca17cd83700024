"""`doctor --python`: any Python that has torch, as its user has set it up."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.doctor.argparse_cli import main
from cogvideo_sat_env.doctor.catalogue import CHECKS
from cogvideo_sat_env.doctor.find_prefix import find_prefix, prefix_of
from cogvideo_sat_env.doctor.gpu_proof import CHECKS as PROVEN
from cogvideo_sat_env.doctor.runner import Conditions, Doctor

from .conftest import FakePrefix, Machine


def program(folder: Path, body: str) -> Path:
    path = folder / "python-of-the-site"
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return path


def test_what_only_an_environment_of_ours_has_is_not_run_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A site's module puts its packages on PYTHONPATH: that is its setup, and no fault."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "base"))  # of a shell in which conda's base is active
    made = [spec.id for spec in CHECKS if spec.made]
    arguments = [word for name in (*made, "identity.python") for word in ("--only", name)]
    assert main(["doctor", "--python", sys.executable, "--json", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["python"] == sys.executable and report["prefix"] == sys.prefix
    found = {result["id"]: result for result in report["results"]}
    assert found.pop("identity.python")["status"] == "passed"
    assert {result["status"] for result in found.values()} == {"not_run"} and set(found) == set(made)
    assert all("as it is" in result["finding"] for result in found.values())


def test_packages_on_the_users_own_pythonpath_are_found_and_nothing_is_activated(
    prefix: FakePrefix, tmp_path: Path
) -> None:
    prefix.distribution("SwissArmyTransformer", "0.4.12")
    prefix.module("sat/__init__")
    prefix.file("etc/conda/activate.d/bad.sh", "exit 9\n")
    python = program(tmp_path, f'exec "{sys.executable}" -S "$@"\n')
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(prefix.site)}
    doctor = Doctor(prefix.root, Conditions(python=python, hardware=Machine(), environ=environ))
    (result,) = doctor.run("full", only=["identity.distribution"]).results
    assert result.status == "passed", result
    (result,) = doctor.run("full", only=["identity.floors"]).results
    assert (
        result.status == "failed" and result.remedy and str(python) in result.remedy and "create" not in result.remedy
    )


def test_every_check_of_the_gpu_proof_is_one_of_the_catalogue() -> None:
    known = {spec.id: spec for spec in CHECKS}
    assert set(PROVEN) <= set(known) and not [name for name in PROVEN if known[name].made]
    assert {spec.id for spec in CHECKS if spec.level == "gpu"} <= set(PROVEN)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 3\n", "exit code 3"),
        ("echo hello\n", "doesn't answer as a Python does"),
        ("echo broken >&2; exit 1\n", "broken"),
        ("echo '[3, 9, \"/usr\"]'\n", "expected 3.10 or newer"),
    ],
)
def test_what_is_no_python_that_starts_is_refused(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(PrefixError, match=words):
        prefix_of(program(tmp_path, body))


def test_one_python_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(PrefixError, match="no such program"):
        find_prefix(None, None, Path, tmp_path / "none")
    with pytest.raises(InputError, match="excludes"):
        find_prefix(tmp_path, None, Path, Path(sys.executable))
    assert main(["doctor", "--python", sys.executable, "--nodes", "2"]) == 3

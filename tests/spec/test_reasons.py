"""`why`: a bound's reason is in reach, by whatever name a user knows the package, in and outside the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.base.command_name import spell_out
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.reasons import explain

SOURCE = Path(__file__).parents[2] / "src"


def test_every_entry_of_the_ledger_is_found_with_its_error_and_remedy():
    ledger = read_ledger()
    for entry in ledger.all:
        for name in {entry.package, entry.pypi_name or entry.package, entry.id}:
            text = " ".join(explain(name).to_text().split())
            for words in (entry.bound, entry.breaks, entry.error, spell_out(entry.remedy), *entry.evidence.values()):
                assert " ".join(words.split()) in text


@pytest.mark.parametrize("name", ["pytorch", "torch", "Torch >=2.14", "torch[extra]", "pytorch=2.14"])
def test_a_name_as_a_user_writes_it(name):
    assert {entry.id for entry in explain(name).entries} == {"torch-2.11", "torch-cuda-build"}


def test_a_floor_without_a_bound_is_told():
    answer = explain("kornia")
    assert answer.entries == () and ">=0.7.3" in answer.to_text()


def test_a_name_that_nothing_is_known_of():
    with pytest.raises(InputError, match="left-pad: neither a requirement nor bounded"):
        explain("left-pad")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["cogvideo_sat_env", "cogvideo_sat_env.doctor"])
def test_both_commands_answer_alike(module):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, "why", *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )  # fmt: skip

    said = run("webdataset").stdout  # outside, the chains of the lock follow
    assert said.startswith(explain("webdataset").to_text())
    assert ("SwissArmyTransformer >=0.4.12 → webdataset" in said) == (module == "cogvideo_sat_env")
    found = json.loads(run("webdataset", "--json").stdout)
    assert [bound["bound"] for bound in found["bounds"]] == ["<0.2.88"]
    unknown = run("left-pad")
    assert unknown.returncode == 3 and "left-pad" in unknown.stderr and "Traceback" not in unknown.stderr

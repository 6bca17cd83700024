"""Reading environment.yml: what is right is read as conda reads it, what is wrong gets one error with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.spec.environment import read_environment

GOLDEN = Path(__file__).parents[1] / "golden" / "spec"
PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_a_broken_spec_is_named_with_its_line(case):
    path = GOLDEN / case / "environment.yml"
    expected = (GOLDEN / case / "expected").read_text().strip()
    with pytest.raises(InputError) as caught:
        read_environment(path)
    assert f"{path}{expected}" in caught.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"environment\.yml: no such file"):
        read_environment(tmp_path / "environment.yml")


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    path = tmp_path / "environment.yml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(InputError, match="byte 6 is not UTF-8"):
        read_environment(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "environment.yml"
    with open(path, "wb") as stream:
        stream.truncate(65 * 1024 * 1024)
    with pytest.raises(InputError, match=r"68,157,440 bytes; expected"):
        read_environment(path)


def test_the_projects_own_spec_is_read():
    environment = read_environment(PROJECT / "environment.yml")
    assert environment.name == "cogvideo-sat"
    assert environment.channels == ("conda-forge", "nvidia")
    assert str(environment.conda_spec("pytorch")) == "pytorch >=2.5.1,<2.11 cuda*"
    assert environment.conda_spec("pytorch").clauses == (">=2.5.1", "<2.11", "cuda*")
    assert environment.pip_spec("swissarmytransformer").specifier == ">=0.4.12"
    assert environment.variables == {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    assert all(spec.comment for spec in (*environment.conda, *environment.pip)), "every line says why it is there"

"""A wheel's metadata becomes the fields of a conda package."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import VerificationError
from cogvideo_sat_env.source.wheels.metadata import build_string, depends, read_metadata
from cogvideo_sat_env.spec.pypi_names import load_names
from source.wheels.wheelindex import make_wheel

LINUX = {
    "implementation_name": "cpython", "implementation_version": "3.11.7", "os_name": "posix", "platform_machine": "x86_64",
    "platform_python_implementation": "CPython", "platform_release": "5", "platform_system": "Linux",
    "platform_version": "1", "python_full_version": "3.11.7", "python_version": "3.11", "sys_platform": "linux",
}  # fmt: skip


@pytest.mark.parametrize(
    ("requirement", "spec"),
    [
        ("torch>=2", "pytorch >=2"),
        ("fsspec[http]<=2026.9,>=2023.1.0", "fsspec <=2026.9,>=2023.1.0"),
        ("hjson ; python_version >= '3.10'", "hjson-py"),
        ("tomli; python_version < '3.11'", None),
        ("colorama; sys_platform == 'win32'", None),
        ("async-timeout; python_full_version < '3.11.3'", None),
        ("pytest; extra == 'test'", None),
        ("triton==3.6.0; platform_system == 'Linux' and platform_machine == 'x86_64'", "triton ==3.6.0"),
    ],
)
def test_requires_dist_is_evaluated_for_the_interpreter(tmp_path: Path, requirement: str, spec: str | None) -> None:
    metadata = read_metadata(make_wheel(tmp_path, "a", "1.0", requires=(requirement,)))
    assert depends(metadata, load_names(), LINUX, "3.11") == sorted(
        [spec, "python 3.11.*"] if spec else ["python 3.11.*"]
    )


def test_a_marker_on_the_patch_version_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    exact = make_wheel(tmp_path, "a", "1.0", requires=("x; python_full_version < '3.11.3'",))
    assert read_metadata(exact).exact_python
    assert not read_metadata(
        make_wheel(tmp_path / "b", "a", "1.0", requires=("x; python_version < '3.11'",))
    ).exact_python


@pytest.mark.parametrize(
    ("version_py", "build"),
    [
        ("cuda: Optional[str] = '12.8'\n", "cuda128_py311_0"),
        ("cuda = '13.0'\n", "cuda130_py311_0"),
        ("cuda: Optional[str] = None\n", "cpu_py311_0"),
    ],
)
def test_the_build_string_of_pytorch_names_its_cuda(tmp_path: Path, version_py: str, build: str) -> None:
    wheel = make_wheel(tmp_path, "torch", "2.10.0", files={"torch/version.py": version_py})
    assert build_string(read_metadata(wheel), "py311") == build


def test_the_build_string_of_others_names_python(tmp_path: Path) -> None:
    assert build_string(read_metadata(make_wheel(tmp_path, "einops", "1")), "py311") == "py311_0"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("License-Expression: Apache-2.0\nLicense: other\n", "Apache-2.0"),
        ("License: BSD-3-Clause\n", "BSD-3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("", ""),
    ],
)
def test_the_licence_comes_from_the_metadata(tmp_path: Path, lines: str, found: str) -> None:
    assert read_metadata(make_wheel(tmp_path, "a", "1.0", extra=lines)).license == found


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a-1.0-py3-none-any.whl").write_bytes(b"not a zip")
    with pytest.raises(VerificationError, match="not a wheel"):
        read_metadata(tmp_path / "a-1.0-py3-none-any.whl")

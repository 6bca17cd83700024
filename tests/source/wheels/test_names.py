"""Names find their way both ways, and an unknown one never reaches an index."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import project_root
from cogvideo_sat_env.source.wheels.names import divide
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.pypi_names import load_names


@pytest.mark.parametrize(
    ("pypi", "conda"),
    [
        ("torch", "pytorch"),
        ("tensorboardX", "tensorboardx"),
        ("hjson", "hjson-py"),
        ("msgpack", "msgpack-python"),
        ("sentencepiece", "sentencepiece"),
        ("huggingface-hub", "huggingface_hub"),
        ("Typing.Extensions", "typing_extensions"),
        ("xxhash", "python-xxhash"),
        ("PyYAML", "pyyaml"),
    ],
)
def test_pypi_name_becomes_the_name_of_the_environment_file(pypi: str, conda: str) -> None:
    assert load_names().to_conda(pypi) == conda


@pytest.mark.parametrize(
    ("conda", "pypi"),
    [("pytorch", "torch"), ("hjson-py", "hjson"), ("sentencepiece", "sentencepiece"), ("einops", "einops"),
     ("ffmpeg", "imageio-ffmpeg"), ("pytorch-lightning", "pytorch-lightning"), ("sat", None), ("cuda-nvcc", None)],
)  # fmt: skip
def test_conda_name_becomes_the_pypi_name(conda: str, pypi: str | None) -> None:
    assert load_names().to_pypi(conda) == pypi


def test_every_name_of_the_environment_file_is_known() -> None:
    environment = read_environment(project_root() / "environment.yml")
    wanted, missing = divide(environment, load_names())
    assert {item.pypi for item in wanted} >= {
        "torch",
        "torchvision",
        "imageio-ffmpeg",
        "deepspeed",
        "swissarmytransformer",
    }
    assert {item.name for item in missing} >= {"cuda-version", "cuda-nvcc", "gxx_linux-64"}
    asked = len(environment.conda) + len(environment.pip) - 1  # all but Python
    assert len(wanted) + len(missing) == asked


def test_bounds_are_kept_and_build_globs_only_for_conda() -> None:
    wanted, _ = divide(read_environment(project_root() / "environment.yml"), load_names())
    torch = next(item for item in wanted if item.pypi == "torch")
    assert torch.requirement() == "torch<2.11,>=2.5.1"
    assert torch.conda_spec == "pytorch >=2.5.1,<2.11 cuda*"


def test_an_unknown_name_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("channels: [conda-forge]\ndependencies:\n  - python 3.11.*\n  - libfoo >=2\n")
    with pytest.raises(InputError, match=r"environment\.yml:4: libfoo: no known project"):
        divide(read_environment(path), load_names())


def test_a_broken_mapping_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pypi-names.yml"
    path.write_text("names:\n  - {pypi: torch, conda: pytorch, module: torch}\n  - {pypi: hjson}\n")
    with pytest.raises(InputError, match=r"pypi-names\.yml:3: expected the keys"):
        load_names(path)

"""What needs a GPU works on this machine's: `pytest -m gpu`, from a checkout, in any Python that has torch."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor.catalogue import CHECKS
from cogvideo_sat_env.doctor.check_result import GPU, NOT_RUN, PASSED, WARNING
from cogvideo_sat_env.doctor.runner import run

pytestmark = pytest.mark.gpu
NEED_A_GPU = ["hardware.gpu", *(spec.id for spec in CHECKS if spec.level == GPU)]


@pytest.fixture(scope="session")
def torch_with_gpu() -> None:
    """Skip, with the reason, where torch has no GPU to use."""
    try:
        import torch
    except ImportError as error:
        pytest.skip(f"{sys.executable} has no torch ({error})")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no GPU")


@pytest.mark.usefixtures("torch_with_gpu")
@pytest.mark.parametrize("check", NEED_A_GPU)
def test_the_check_passes_here(check: str) -> None:
    (result,) = run(Path(sys.prefix), python=Path(sys.executable), only=[check]).results
    if result.status == NOT_RUN:
        pytest.skip(result.finding)
    if result.status == WARNING:
        warnings.warn(f"{check}: {result.finding}", stacklevel=1)
    assert result.status in (PASSED, WARNING), f"{result.finding}; {result.remedy}\n{result.details}"

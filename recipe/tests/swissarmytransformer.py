"""Modules and patches of the package swissarmytransformer, each tried; the build engines run this in an environment.

Arguments: names of the tests to run, all of them without. Ends with 1, naming what fails, when a patch is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import types
from importlib import import_module, metadata
from unittest import mock

import numpy as np
import torch


def modules_are_imported() -> None:
    """Those that CogVideo trains with."""
    for name in ("sat", "sat.training.deepspeed_training", "sat.ops.fused_ema_adam"):
        import_module(name)


def shards_are_named() -> None:
    """0001: a ResampledShards with `seed` before `worker_seed`, as from webdataset 0.2.88 on, gets the right values."""
    from sat.data_utils import webds

    seen: dict[str, object] = {}

    def newer(self, urls, nshards=0, seed=0, worker_seed=None, deterministic=False):  # the order of 0.2.88
        seen.update(nshards=nshards, seed=seed, worker_seed=worker_seed, deterministic=deterministic)

    group = mock.patch("sat.mpu.get_data_parallel_group", side_effect=AssertionError)
    with group, mock.patch.object(webds.ResampledShards, "__init__", newer):
        webds.ConfiguredResampledShards("shard.tar", 1, nshards=7)
    assert callable(seen["worker_seed"]) and seen["deterministic"] is True, seen
    assert (seen["nshards"], seen["seed"]) == (7, 0), seen


def capabilities_have_two_digits() -> None:
    """0002: compute capability 12.0 is compute_120 and comes after 9.0; no GPU is an error that says so."""
    builder = _builder()
    capabilities = mock.patch.object(torch.cuda, "get_device_capability", side_effect=[(12, 0), (9, 0)])
    with mock.patch.object(torch.cuda, "device_count", return_value=2), capabilities:
        args = builder.compute_capability_args()
    assert args == [
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ], args
    with mock.patch.object(torch.cuda, "device_count", return_value=0):
        try:
            builder.compute_capability_args()
        except RuntimeError as error:
            assert "no GPU" in str(error), error
        else:
            raise AssertionError("no error without a GPU")


def mismatch_is_an_error() -> None:
    """0003: nvcc of another CUDA major ends the build before it begins; another minor doesn't."""
    from sat.ops.ops_builder import builder as module

    built: list[str] = []
    extension = types.SimpleNamespace(load=lambda name, **_: built.append(name) or "built")
    for nvcc, torchs, expected in (((13, 0), "12.9", False), ((12, 4), "12.9", True), ((12, 9), "12.9", True)):
        built.clear()
        with (
            mock.patch.object(module, "installed_cuda_version", return_value=nvcc),
            mock.patch.object(torch.version, "cuda", torchs),
            mock.patch.dict(sys.modules, {"torch.utils.cpp_extension": extension}),
            mock.patch.dict(sys.modules, {"ninja": types.ModuleType("ninja")}),
            mock.patch.object(module.CUDAOpBuilder, "compute_capability_args", return_value=[]),
        ):
            try:
                _builder().jit_load(verbose=False)
            except Exception as error:
                assert not expected and "does not match" in str(error), error
        assert bool(built) is expected, (nvcc, torchs, built)


def random_state_is_loaded() -> None:
    """0004: a checkpoint with numpy's random-number state is loaded by SAT with torch.load's safe default."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = os.path.join(folder, "checkpoint.pt")
        torch.save({"module": {"weight": torch.ones(2)}, "np_rng_state": np.random.get_state()}, checkpoint)
        # the variable that lifts torch's restriction is read when torch is imported: a process of its own, without it
        env = {name: value for name, value in os.environ.items() if name != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
        done = subprocess.run(
            [sys.executable, __file__, "_load", checkpoint], env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loaded [1.0, 1.0]" in done.stdout, done.stdout[-2000:]


def cpm_kernels_is_optional() -> None:
    """0005: no conda channel has cpm_kernels, and SAT goes without it."""
    declared = [name.partition(" ")[0] for name in metadata.requires("SwissArmyTransformer") or []]
    assert "deepspeed" in declared and not {"cpm-kernels", "cpm_kernels"} & set(declared), declared
    with mock.patch.dict(sys.modules, {"cpm_kernels": None, "cpm_kernels.kernels.base": None}):
        sys.modules.pop("sat.quantization.kernels", None)
        from sat.quantization import kernels
    assert kernels.kernels is None


def _load(checkpoint: str) -> None:
    from sat.training import model_io

    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(torch.zeros(2)))
    args = types.SimpleNamespace(load=os.path.dirname(checkpoint), mode="inference", force_inference=False)
    with (
        mock.patch.object(model_io, "get_checkpoint_iteration", return_value=(1, False, True)),
        mock.patch.object(model_io, "get_checkpoint_name", return_value=checkpoint),
        mock.patch.object(model_io.mpu, "get_data_parallel_rank", return_value=1),
    ):
        model_io.load_checkpoint(module, args)
    print("loaded", module.weight.tolist())


def _builder():
    from sat.ops.ops_builder.fused_ema_adam import FusedEmaAdamBuilder

    builder = FusedEmaAdamBuilder()
    builder.jit_mode = True
    return builder


TESTS = (
    modules_are_imported, shards_are_named, capabilities_have_two_digits, mismatch_is_an_error,
    random_state_is_loaded, cpm_kernels_is_optional,
)  # fmt: skip


def main(names: list[str]) -> int:
    """Run the tests; returns the exit code."""
    if names[:1] == ["_load"]:
        _load(names[1])
        return 0
    failed = []
    for test in TESTS:
        if names and test.__name__ not in names:
            continue
        try:
            test()
        except Exception as error:
            failed.append(f"FAILED {test.__name__}: {type(error).__name__}: {str(error).strip().splitlines()[-1:]}")
        else:
            print(f"passed {test.__name__}")
    print("\n".join(failed))  # last, where logs are read
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

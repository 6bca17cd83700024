"""Hardware: nvidia-smi's answers, and the verdict on machines that we don't have."""

from __future__ import annotations

import pytest

from cogvideo_sat_env.base import yamlfile
from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts, NvidiaSmi, parse_query

from .conftest import Machine

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", 81559, "9.0")


def fake_torch(
    prefix, cuda: str | None, available: bool = True, error: str = "", total: float = 256.0**3, count: int = 1
):
    prefix.file("lib/site/torch/version.py", f"cuda = {cuda!r}\n")
    prefix.file(
        "lib/site/torch/__init__.py",
        f"""
        from . import cuda, version
        class Ones:
            def __matmul__(self, other):
                if {error!r}:
                    raise RuntimeError({error!r})
                return self
            def sum(self): return {total}
        def ones(*shape, device): return Ones()
        """,
    )
    prefix.file(
        "lib/site/torch/cuda.py",
        f"def is_available(): return {available}\ndef device_count(): return {count}\ndef get_arch_list(): return []\n",
    )


def machine(driver: str, *gpus: Gpu) -> Machine:
    return Machine(GpuFacts(driver, gpus or (H100,)))


def test_without_a_gpu_it_is_not_run_and_torch_is_not_imported(prefix):
    fake_torch(prefix, "12.9")
    prefix.file("lib/site/torch/cuda.py", "raise RuntimeError('imported')")
    result = prefix.check("hardware.gpu")
    assert (result.status, result.finding) == ("not_run", "not run: no GPU (torch is built for CUDA 12.9)")


def test_a_new_enough_driver_passes(prefix):
    fake_torch(prefix, "12.9")
    result = prefix.check("hardware.gpu", machine=machine("575.57.08"))
    assert result.status == "passed"
    assert result.finding == (
        "driver 575.57.08, 1 GPU (NVIDIA H100 80GB HBM3; 80 GiB); torch for CUDA 12.9 computes on it"
    )
    assert result.details["gpus"][0]["memory_mib"] == 81559


def test_a_cpu_build_on_a_gpu_machine_fails(prefix):
    fake_torch(prefix, None)
    result = prefix.check("hardware.gpu", machine=machine("575.57.08"))
    assert result.status == "failed" and "torch is a CPU build" in result.finding
    assert result.remedy == "CONDA_OVERRIDE_CUDA=12.9 mamba env create -f environment.yml"


@pytest.mark.parametrize(
    ("driver", "cuda", "status", "words"),
    [
        ("525.60.13", "12.8", "warning", "570.26"),  # lowest for CUDA 12.x by minor version compatibility
        ("525.60.11", "12.8", "failed", "525.60.13"),
        ("470.256.02", "12.9", "failed", "525.60.13"),
        ("570.26", "12.8", "passed", "computes"),
        ("570.124.06", "12.8", "passed", "computes"),
        ("570.124.06", "12.9", "warning", "575.51.03"),
        ("575.51.03", "12.9", "passed", "computes"),
        ("575.51.03", "13.0", "failed", "580"),
        ("580.65.06", "13.0", "passed", "computes"),
        ("600.10", "12.9", "passed", "computes"),
    ],
)
def test_the_driver_is_held_against_torchs_cuda(prefix, driver, cuda, status, words):
    fake_torch(prefix, cuda)
    result = prefix.check("hardware.gpu", machine=machine(driver))
    assert result.status == status and words in result.finding, result.finding


def test_a_driver_that_is_too_old_names_the_one_to_install(prefix):
    fake_torch(prefix, "12.9")
    remedy = prefix.check("hardware.gpu", machine=machine("470.256.02")).remedy
    assert remedy == "install driver 575.51.03 or newer, or a torch for an older CUDA"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"available": False}, "torch.cuda.is_available() is False"),
        ({"error": "no kernel image is available for execution on the device"}, "no kernel image is available"),
        ({"total": 0.0}, "a matrix product on the GPU gives 0.0"),
    ],
    ids=lambda value: str(value),
)
def test_a_gpu_that_torch_cannot_use_fails(prefix, state, words):
    fake_torch(prefix, "12.9", **state)
    result = prefix.check("hardware.gpu", machine=machine("580.65.06"))
    assert result.status == "failed" and words in result.finding


def test_hidden_gpus_are_told(prefix):
    fake_torch(prefix, "12.9", count=1)
    gpus = tuple(Gpu(index, H100.name, H100.memory_mib, "9.0") for index in range(8))
    result = prefix.check("hardware.gpu", machine=Machine(GpuFacts("580.65.06", gpus)))
    assert result.status == "warning" and "torch sees 1 of them" in result.finding


def test_a_driver_without_an_answer_is_told(prefix):
    fake_torch(prefix, "12.9")
    problem = "nvidia-smi fails (18): Failed to initialize NVML: Driver/library version mismatch"
    result = prefix.check("hardware.gpu", machine=Machine(GpuFacts("575.51.03", (), problem)))
    assert (result.status, result.finding) == ("warning", problem)


def test_nvidia_smis_answer_is_read():
    text = "0, NVIDIA H100 80GB HBM3, 81559, 9.0, 575.57.08\n1, NVIDIA GB10, [N/A], 12.1, 575.57.08\n"
    facts = parse_query(text)
    assert facts == GpuFacts("575.57.08", (H100, Gpu(1, "NVIDIA GB10", 0, "12.1")))


def test_an_odd_answer_is_a_problem_not_a_crash():
    assert parse_query("Unable to determine the device handle for GPU\n").problem is not None


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        ("echo '0, A100, 40960, 8.0, 535.54.03'", GpuFacts("535.54.03", (Gpu(0, "A100", 40960, "8.0"),))),
        ("echo 'No devices were found'; exit 6", GpuFacts("570.26")),
        ("echo 'Driver/library version mismatch'; exit 18",
         GpuFacts("570.26", (), "nvidia-smi fails (18): Driver/library version mismatch")),
    ],
    ids=["one GPU", "no devices", "mismatch"],
)  # fmt: skip
def test_the_program_is_asked(prefix, tmp_path, body, facts):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.26  Release Build\n")
    program = prefix.program("nvidia-smi", body + "\n")
    assert NvidiaSmi(str(program), version).gpu_facts() == facts


def test_a_loaded_driver_without_nvidia_smi_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 2024\n")
    facts = NvidiaSmi(version_file=version).gpu_facts()
    assert facts.driver == "535.183.01" and "nvidia-smi is not on PATH" in facts.problem
    assert NvidiaSmi(version_file=tmp_path / "none").gpu_facts() == GpuFacts()


def test_the_table_of_drivers_is_in_order():
    """A later CUDA never needs an older driver, and the native one is never older than the compatible one."""
    drivers, _ = yamlfile.load(DATA / "drivers.yml", "the table of drivers")

    def parts(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    rows = [(parts(cuda), parts(driver)) for cuda, driver in drivers["native"].items()]
    assert rows == sorted(rows) and [driver for _, driver in rows] == sorted(driver for _, driver in rows)
    for cuda, driver in rows:
        assert driver >= parts(drivers["minor_compatible"][str(cuda[0])])

"""Good environments that are really broken: the doctor names the failure and the remedy of the breakage ledger.

Each test breaks a thin copy (overlay.py) and runs only the check concerned.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distributions
from pathlib import Path

import pytest

from cogvideo_sat_env import doctor
from cogvideo_sat_env.doctor import activation

from .overlay import Overlay

pytestmark = pytest.mark.e2e


@pytest.fixture
def clean_shell(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("PYTHONPATH", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):  # the tests' own
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def overlay(good_prefix: Path, tmp_path: Path, clean_shell: pytest.MonkeyPatch) -> Overlay:
    return Overlay(good_prefix, tmp_path / "broken")


def examine(overlay: Overlay, check: str) -> doctor.CheckResult:
    (result,) = doctor.run(overlay.root, only=[check]).results
    return result


def version(overlay: Overlay, name: str) -> str:
    (found,) = [d.version for d in distributions(path=[str(overlay.site)]) if d.metadata["Name"] == name]
    return found


@pytest.fixture(scope="module")
def full_report(good_prefix: Path) -> doctor.Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        patch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
        return doctor.run(good_prefix)


def test_a_good_environment_passes_every_check(full_report):
    assert full_report.exit_code == 0, full_report.to_text()
    assert {result.id for result in full_report.results if result.status == "not_run"} <= {
        "hardware.gpu", "toolchain.nvcc",
    }  # fmt: skip


def test_the_copy_is_as_good_as_the_original(overlay):
    """Otherwise the tests below would prove nothing."""
    report = doctor.run(overlay.root, only=["identity", "imports.together", "imports.upstream-names"])
    assert report.exit_code == 0, report.to_text()


def test_torchvision_without_io_video_is_named(overlay, tmp_path):
    """The real Python code of torchvision 0.26.0, on the compiled half of the installed one.

    0.26.0 whole needs torch 2.11, another gigabyte; what CogVideo misses is in the Python half.
    """
    installed = (overlay.site / "torchvision").resolve()
    overlay.install("torchvision", "0.26.0", into=tmp_path / "new")
    new = tmp_path / "new" / "torchvision"
    assert not (new / "io" / "video.py").exists()
    for compiled in (*new.glob("*.so"), new / "extension.py", new / "io" / "image.py"):
        compiled.unlink()
    for name in [path.name for path in installed.glob("*.so")] + ["extension.py", "io/image.py"]:
        shutil.copy(installed / name, new / name)
    (overlay.site / "torchvision").unlink()
    shutil.move(new, overlay.site / "torchvision")
    result = examine(overlay, "imports.upstream-names")
    assert result.status == "failed" and "No module named 'torchvision.io.video'" in result.finding
    assert result.details["ledger"] == "torchvision-0.26"
    assert result.remedy == "mamba install 'torchvision<0.26' 'pytorch<2.11'"


def test_new_webdataset_is_named(overlay):
    overlay.install("webdataset", "1.0.2")
    result = examine(overlay, "data.webdataset")
    assert result.status == "failed" and "'bool' object is not callable" in result.finding, result.finding
    assert "webdataset 1.0.2" in result.finding and result.details["ledger"] == "webdataset-0.2.88"
    assert result.remedy == "pip install 'webdataset<0.2.88'"


def test_new_webdataset_is_invisible_to_imports(overlay):
    """Why data.webdataset exists at all."""
    overlay.install("webdataset", "1.0.2")
    assert examine(overlay, "imports.together").status == "passed"


def test_numpy_1_with_pyarrow_26_is_named(overlay):
    if overlay.version != "3.11":
        pytest.skip("numpy 1.26.0 has no wheel for this Python")
    overlay.install("numpy", "1.26.0")
    overlay.install("pandas", "3.0.6")  # what the resolver takes with numpy 1.26
    if not version(overlay, "pyarrow").startswith("26."):
        overlay.install("pyarrow", "26.0.1")
    result = examine(overlay, "imports.alone")
    assert result.status == "failed" and "datasets" in result.details["problems"]
    assert "pyarrow requires NumPy 2.0 or newer, found 1.26.0" in result.details["problems"]["datasets"]
    assert result.details["ledger"] == "numpy-pyarrow" and result.remedy == "mamba install 'numpy>=2'"


@pytest.fixture
def inactive(good_prefix: Path, tmp_path: Path, clean_shell: pytest.MonkeyPatch) -> Path:
    """The good environment without what activation sets, except where compiled extensions are.

    No overlay: for other paths DeepSpeed would compile again, for a minute.
    """
    sets = activation.capture(good_prefix, tmp_path).sets
    if "TORCH_EXTENSIONS_DIR" in sets:
        clean_shell.setenv("TORCH_EXTENSIONS_DIR", sets["TORCH_EXTENSIONS_DIR"])
    return Overlay.bare(good_prefix, tmp_path / "inactive")


def test_missing_weights_only_variable_is_named(inactive):
    (result,) = doctor.run(inactive, only=["training.checkpoint"]).results
    assert result.status == "failed" and "Weights only load failed" in result.finding, result.finding
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is not set" in result.finding
    assert result.details["ledger"] == "torch-weights-only"
    assert result.remedy.startswith("export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1")


def test_a_variable_that_only_the_shell_sets_is_told(inactive, clean_shell):
    clean_shell.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (result,) = doctor.run(inactive, only=["training.checkpoint"]).results
    assert result.status == "warning" and "only because your shell sets" in result.finding, result.finding


def test_missing_imageio_ffmpeg_is_named(overlay):
    overlay.remove("imageio_ffmpeg")
    result = examine(overlay, "video.write")
    assert result.status == "failed" and "No module named 'imageio_ffmpeg'" in result.finding
    assert "imageio-ffmpeg" in result.remedy


def test_missing_triton_is_named(overlay):
    overlay.remove("triton")
    result = examine(overlay, "imports.together")
    assert result.status == "failed" and "sat (ModuleNotFoundError: No module named 'triton')" in result.finding
    assert "triton" in result.remedy


def test_the_limits_of_decord2_are_told_and_no_failure(overlay):
    """linux-aarch64 has no other decord; CogVideo's sizes and its order of imports work."""
    overlay.remove("decord")
    overlay.install("decord2", "3.4.0")
    report = doctor.run(overlay.root, only=["video.decord", "imports.order"])
    assert report.exit_code == 0, report.to_text()
    decord = next(result for result in report.results if result.id == "video.decord")
    assert decord.status == "warning" and "at 2 sizes" in decord.finding and "96x64" in decord.finding


def test_pypis_sat_is_named(overlay):
    """PyPI's `sat` is an sdist that no Python 3 builds; this is what its files would do here."""
    (overlay.site / "sat").unlink()
    (overlay.site / "sat").mkdir()
    (overlay.site / "sat" / "__init__.py").write_text("__version__ = '0.1'\n")
    info = overlay.site / "sat-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sat\nVersion: 0.1\n")
    result = examine(overlay, "identity.distribution")
    assert result.status == "failed" and "PyPI's unrelated package sat 0.1" in result.finding
    assert "pip uninstall -y sat" in result.remedy
    shutil.rmtree(info)  # `pip uninstall sat` leaves a damaged SAT
    assert "missing or were overwritten" in examine(overlay, "identity.distribution").finding

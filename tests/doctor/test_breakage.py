"""Good environments that are really broken: the doctor names the failure and the remedy of the breakage ledger.

Each test breaks a thin copy (overlay.py) and runs only the check concerned.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

from cogvideo_sat_env import doctor
from cogvideo_sat_env.doctor import activated_env
from cogvideo_sat_env.doctor.catalogue import CHECKS

from .overlay import Overlay, examine, patch

pytestmark = pytest.mark.e2e


def version(overlay: Overlay, name: str) -> str:
    (found,) = [d.version for d in distributions(path=[str(overlay.site)]) if d.metadata["Name"] == name]
    return found


def test_a_good_environment_passes_every_check(full_report):
    assert full_report["exit_code"] == 0, full_report
    need_hardware = {spec.id for spec in CHECKS if spec.level == "gpu"} | {
        "hardware.gpu", "toolchain.nvcc", "toolchain.extension",
    }  # fmt: skip
    not_run = {result["id"] for result in full_report["results"] if result["status"] == "not_run"}
    assert not_run <= need_hardware | {"security.advisories"}


def test_a_good_environment_raises_no_false_alarm(full_report):
    """The host may have another nvcc, and the folder of the tests its own permissions: those are true alarms."""
    about_the_machine = {"toolchain.nvcc", "network.hostname", "security.permissions", "hardware.gpu"}
    alarms = {result["id"]: result["finding"] for result in full_report["results"] if result["status"] == "warning"}
    assert set(alarms) <= about_the_machine, alarms


def test_the_copy_is_as_good_as_the_original(overlay):
    """Otherwise the tests below would prove nothing; those of identity.files count the files that differ.

    That it is a copy is found, rightly: its activation names the original.
    """
    wanted = ["identity", "imports.together", "imports.upstream-names"]
    report = doctor.run(overlay.root, only=wanted, skip=["identity.files", "identity.activation"])
    assert report.exit_code == 0, report.to_text()
    assert {result.status for result in report.results} == {"passed"}, report.to_text()


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
    assert result.status == "failed" and "No module named 'torchvision.io.video'" in result.finding, result.finding
    assert result.details["ledger"] == "torchvision-0.26"
    assert "create --repair" in result.remedy


def test_the_stub_of_io_video_in_newer_torchvisions_is_named(overlay, tmp_path):
    """torchvision 0.28 and newer have the module again, as a stub that nobody outside can import.

    The real folders io and datasets of 0.29.1 in the installed one; the rest of it wants its own compiled half.
    """
    overlay.install("torchvision", "0.29.1", into=tmp_path / "new")
    installed = (overlay.site / "torchvision").resolve()
    torchvision = overlay.own(f"lib/python{overlay.version}/site-packages/torchvision")
    for folder in ("io", "datasets"):
        (torchvision / folder).unlink()
        shutil.copytree(tmp_path / "new" / "torchvision" / folder, torchvision / folder)
    shutil.copy(installed / "io" / "image.py", torchvision / "io" / "image.py")
    result = examine(overlay, "imports.upstream-names")
    assert result.status == "failed" and "No module named 'pytorch'" in result.finding, result.finding
    assert result.details["ledger"] == "torchvision-0.26"


def test_new_webdataset_is_named(overlay):
    """It is invisible to imports, which is why data.webdataset exists at all. SAT is patched, CogVideo's own code isn't."""
    overlay.install("webdataset", "1.0.2")
    together, result = doctor.run(overlay.root, only=["imports.together", "data.webdataset"]).results
    assert together.status == "passed"
    assert result.status == "failed" and "'bool' object is not callable" in result.finding, result.finding
    assert "webdataset 1.0.2" in result.finding and result.details["ledger"] == "webdataset-0.2.88"
    assert "create --repair" in result.remedy


def test_numpy_1_with_pyarrow_26_is_named(overlay):
    if overlay.version != "3.11":
        pytest.skip("numpy 1.26.0 has no wheel for this Python")
    overlay.install("numpy", "1.26.0")
    overlay.install("pandas", "3.0.6")  # what the resolver takes with numpy 1.26
    if not version(overlay, "pyarrow").startswith("26."):
        overlay.install("pyarrow", "26.0.1")
    result = examine(overlay, "imports.together")
    assert result.status == "failed" and "datasets" in result.details["problems"]
    assert "pyarrow requires NumPy 2.0 or newer, found 1.26.0" in result.details["problems"]["datasets"]
    assert result.details["ledger"] == "numpy-pyarrow" and "create --repair" in result.remedy


def test_old_peft_is_named(overlay):
    overlay.install("peft", "0.17.1")
    result = examine(overlay, "imports.together")
    assert result.status == "failed"
    assert "cannot import name 'HybridCache' from 'transformers'" in result.details["problems"]["peft"]
    assert result.details["ledger"] == "peft-0.18" and "create --repair" in result.remedy


@pytest.fixture
def inactive(good_prefix: Path, tmp_path: Path, clean_shell: pytest.MonkeyPatch) -> Path:
    """The good environment without what activation sets, except where compiled extensions are.

    No overlay: for other paths DeepSpeed would compile again, for a minute.
    """
    sets = activated_env.capture(good_prefix, tmp_path).sets
    if "TORCH_EXTENSIONS_DIR" in sets:
        clean_shell.setenv("TORCH_EXTENSIONS_DIR", sets["TORCH_EXTENSIONS_DIR"])
    return Overlay.bare(good_prefix, tmp_path / "inactive")


def test_missing_weights_only_variable_is_named(inactive, overlay, tmp_path, clean_shell):
    """For SAT as it is published: ours is patched to load its own random state without the variable."""
    overlay.install("SwissArmyTransformer", "0.4.12", into=tmp_path / "published")
    clean_shell.setenv("PYTHONPATH", str(tmp_path / "published"))
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
    assert "create --repair" in result.remedy


def test_a_missing_module_is_named_with_the_command_that_installs_it(overlay):
    overlay.remove("decord", "imageio", "wandb")
    floors, together = doctor.run(overlay.root, only=["identity.floors", "imports.together"]).results
    assert floors.status == together.status == "failed"
    assert floors.finding == "not installed: decord, wandb, imageio"
    for name in ("decord", "imageio", "wandb"):
        assert f"No module named '{name}'" in together.details["problems"][name]
    assert "create --repair" in together.remedy


def test_torchvision_of_another_torch_is_named(overlay):
    overlay.install("torchvision", "0.24.1")
    bounds, together = doctor.run(overlay.root, only=["identity.bounds", "imports.together"]).results
    assert bounds.status == together.status == "failed"
    assert "torchvision 0.24.1 was built for torch ==2.9.1" in bounds.finding
    assert "partially initialized module 'torchvision'" in together.finding and "create --repair" in together.remedy
    assert "create --repair" in bounds.remedy
    done = subprocess.run(
        [overlay.root / "bin/python", "-c", "import torchvision"], capture_output=True, text=True, check=False
    )
    assert "operator torchvision::nms does not exist" in done.stderr  # what users see and search for


def test_a_lost_library_is_named(overlay):
    """As a clean-up of old files on a scratch file system leaves an environment."""
    library = "sentencepiece.libs"
    lost = next(name.name for name in (overlay.site / library).iterdir() if name.name.startswith("libgomp"))
    overlay.own(
        f"lib/python{overlay.version}/site-packages/sentencepiece"
    )  # the loader's $ORIGIN follows links of folders
    overlay.own(f"lib/python{overlay.version}/site-packages/{library}/{lost}").unlink()
    given = doctor.Conditions(options={"identity.seconds": 1})
    report = doctor.run(overlay.root, given, only=["imports.together", "identity.files"])
    files, imports = report.results
    assert imports.status == "failed" and "sentencepiece" in imports.details["problems"]
    assert "cannot open shared object file" in imports.finding and "identity.files" in imports.remedy
    assert files.status == "failed" and files.details["missing"] == {
        "sentencepiece": [f"lib/python{overlay.version}/site-packages/{library}/{lost}"]
    }  # fmt: skip


def test_a_changed_file_of_the_same_size_is_named(overlay):
    patch(overlay, "sat/__init__.py", "import", "IMPORT"[:6])
    result = examine(overlay, "identity.files", identity_seconds=2)  # code comes first; all of it: `full_report`
    assert result.status == "failed" and "1 changed (swissarmytransformer: " in result.finding
    assert result.details["changed"] == {
        "swissarmytransformer": [f"lib/python{overlay.version}/site-packages/sat/__init__.py"]
    }


def test_pip_over_conda_is_named(overlay):
    overlay.install("einops", "0.8.0")
    result = examine(overlay, "identity.overwritten")
    assert result.status == "warning" and "einops 0.8.0 by pip over conda's einops" in result.finding


def test_the_hosts_cuda_library_in_front_of_the_environments_is_named(overlay, good_prefix, tmp_path, clean_shell):
    """A shell that preloads the host's libcudart: torch then runs with that one."""
    own = next(path for path in good_prefix.rglob("libcudart.so.12*") if "libs" not in path.parts[-2])
    (tmp_path / "host").mkdir()
    shutil.copy(own.resolve(), tmp_path / "host" / "libcudart.so.12")
    clean_shell.setenv("LD_PRELOAD", str(tmp_path / "host" / "libcudart.so.12"))
    report = doctor.run(overlay.root, only=["imports.together", "identity.libraries", "identity.pollution"])
    found = {result.id: result for result in report.results}
    assert found["identity.libraries"].status == "failed", report.to_text()
    assert str(tmp_path / "host" / "libcudart.so.12") in found["identity.libraries"].finding
    assert found["identity.pollution"].status == "warning" and "LD_PRELOAD" in found["identity.pollution"].finding


def test_a_module_of_sat_that_does_not_import_is_named(overlay):
    patch(overlay, "sat/model/finetune/lora2.py", "import", "import no_such_name_of_anybody\nimport")
    result = examine(overlay, "imports.sat-modules")
    assert result.status == "failed" and "sat.model.finetune.lora2 (ModuleNotFoundError" in result.finding


def test_shifted_frames_are_named(overlay):
    """decord that decodes another frame than the one asked for, as with some of its builds."""
    patch(
        overlay,
        "decord/video_reader.py",
        "arr = _CAPI_VideoReaderGetBatch(",
        "indices = _nd.array(np.minimum(indices.asnumpy() + 1, len(self) - 1))\n        arr = _CAPI_VideoReaderGetBatch(",
    )
    report = doctor.run(overlay.root, only=["video.decord", "video.codecs", "video.sizes", "data.folder"])
    decord, codecs, sizes, folder = report.results
    assert "gives frame 1 for frame 0" in decord.finding and "expected [3, 5, 7" in folder.finding
    assert codecs.status == sizes.status == "failed"


def test_a_decoder_that_hangs_on_broken_clips_is_named(overlay):
    patch(
        overlay,
        "decord/video_reader.py",
        "        self._handle = None",
        "        self._handle = None\n        import os, time\n        if isinstance(uri, str) and os.path.exists(uri) and not os.path.getsize(uri): time.sleep(600)",
    )
    result = examine(overlay, "video.broken", video_seconds=3)
    assert result.status == "failed" and "an empty file: hangs (over 3 s)" in result.finding


def test_an_mp4_that_cannot_be_written_is_named(overlay, tmp_path, clean_shell):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    program.chmod(0o755)
    clean_shell.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    result = examine(overlay, "video.write")
    assert result.status == "failed" and result.remedy == "unset IMAGEIO_FFMPEG_EXE"  # repairing wouldn't help


def test_shards_that_cannot_be_named_by_a_range_are_told(overlay):
    overlay.remove("braceexpand")
    result = examine(overlay, "data.shards")
    assert (
        result.status == "failed"
        and "No module named 'braceexpand'" in result.finding
        and "create --repair" in result.remedy
    )


def test_a_worker_that_a_corrupt_clip_kills_is_named(overlay):
    """What if decord ended the process: upstream's `except Exception` doesn't help then."""
    patch(
        overlay,
        "decord/video_reader.py",
        "        self._handle = None",
        "        self._handle = None\n        import io, os\n        if isinstance(uri, io.BytesIO) and uri.getvalue()[:4] == bytes(4): os.abort()",
    )
    result = examine(overlay, "data.shards")
    said = [
        words for words in ("exited unexpectedly", "is killed by signal") if words in result.finding
    ]  # torch's two ways
    assert result.status == "failed" and said, result.finding
    assert "/dev/shm" in result.remedy


def test_missing_triton_is_named(overlay):
    overlay.remove("triton")
    result = examine(overlay, "imports.together")
    assert result.status == "failed" and "sat (ModuleNotFoundError: No module named 'triton')" in result.finding
    assert "create --repair" in result.remedy


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

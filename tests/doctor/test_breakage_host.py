"""A good environment on a host that spoils it, and packages that answer wrongly without an error."""

from __future__ import annotations

import os
import shutil

import pytest

from cogvideo_sat_env import doctor

from .overlay import Overlay, examine, patch

pytestmark = pytest.mark.e2e

COMPILERS = ("c++", "g++", "gcc", "cc", "clang", "nvcc", "x86_64-", "aarch64-")


def test_an_older_libstdcxx_of_the_host_in_front_is_named(overlay, tmp_path, clean_shell):
    """As `module load gcc/4.9` does it: here a library of that name that has none of the newer symbols."""
    (tmp_path / "host").mkdir()
    other = next((overlay.site / "sentencepiece.libs").glob("libgomp*"))
    shutil.copy(other.resolve(), tmp_path / "host" / "libstdc++.so.6")
    clean_shell.setenv("LD_LIBRARY_PATH", str(tmp_path / "host"))
    pollution, together = doctor.run(overlay.root, only=["identity.pollution", "imports.together"]).results
    assert pollution.status == "warning" and "libstdc++.so.6" in pollution.finding
    assert together.status == "failed" and "not found (required by" in together.finding, together.finding
    assert together.remedy.startswith("unset LD_LIBRARY_PATH"), together.remedy


def test_without_a_compiler_on_the_host_training_is_slower_and_works(good_prefix, tmp_path, clean_shell):
    """DeepSpeed would build deepspeed_shm_comm when training starts; patched, it goes on with gloo alone."""
    bare = Overlay.bare(good_prefix, tmp_path / "bare")
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/bin", "/usr/bin"):
        for entry in os.scandir(folder):
            if not entry.name.startswith(COMPILERS) and not (tools / entry.name).is_symlink():
                (tools / entry.name).symlink_to(entry.path)
    clean_shell.setenv("PATH", str(tools))
    clean_shell.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    for name in ("CXX", "CC", "CUDA_HOME", "CUDA_PATH"):
        clean_shell.delenv(name, raising=False)
    report = doctor.run(bare, only=["toolchain.compiler", "training.zero2"])
    zero2, compiler = report.results
    assert (compiler.status, zero2.status) == ("warning", "passed"), report.to_text()
    assert "slower" in compiler.finding and "apt install g++" in compiler.remedy


def test_two_packages_that_both_install_decord_are_named(overlay):
    """As `pip install decord2` beside decord leaves it."""
    overlay.install("decord2", "3.4.0", into=overlay.site)
    result = examine(overlay, "identity.distribution")
    assert result.status == "failed" and "both install the module decord" in result.finding


def test_a_tokenizer_that_gives_other_tokens_without_an_error_is_named(overlay):
    patch(
        overlay, "transformers/models/t5/tokenization_t5.py", 'single=["$A", "</s>"]', 'single=["$A"]'
    )  # as if the end of the text got lost
    result = examine(overlay, "text.t5")
    assert result.status == "failed" and result.finding.startswith("T5Tokenizer gives"), result.finding


def test_a_t5_without_sentencepiece_is_named(overlay):
    overlay.remove("sentencepiece")
    result = examine(overlay, "text.t5")
    assert result.status == "failed" and "No module named 'sentencepiece'" in result.finding
    assert "create --repair" in result.remedy


def test_lora_weights_that_lose_bits_in_the_file_are_named(overlay):
    patch(overlay, "safetensors/torch.py", "        return f.get_tensors()", (
        "        return {name: value.bfloat16().to(value.dtype) for name, value in f.get_tensors().items()}"
    ))  # fmt: skip
    result = examine(overlay, "lora.safetensors")
    assert result.status == "failed" and "LoRA matrices changed in the file" in result.finding, result.finding

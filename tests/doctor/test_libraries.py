"""What a process has loaded: real shared libraries under the names that do harm, made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cogvideo_sat_env.doctor.checks import _libraries

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")


def library(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "empty.c"
    source.write_text("int satenv_nothing(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / name, source], check=True)
    return folder / name


@needs_compiler
def test_two_openmp_runtimes_are_told(prefix, tmp_path):
    gnu, intel = library(prefix.root / "lib", "libgomp.so.1"), library(tmp_path / "intel", "libiomp5.so")
    assert prefix.check("identity.libraries", LD_PRELOAD=str(gnu)).status == "not_run"
    result = prefix.check("identity.libraries", LD_PRELOAD=f"{gnu}:{intel}")
    assert result.status == "warning" and "2 OpenMP runtimes in one process" in result.finding
    assert f"Intel's ({intel})" in result.finding and f"GNU's ({gnu})" in result.finding


@needs_compiler
def test_copies_that_wheels_vendor_under_other_names_do_no_harm(prefix):
    gnu, vendored = (
        library(prefix.root / "lib", "libiomp5.so"),
        library(prefix.root / "x.libs", "libgomp-6a29c32d.so.1.0.0"),
    )
    result = prefix.check("identity.libraries", LD_PRELOAD=f"{gnu}:{vendored}")
    assert result.status == "not_run" and result.details["vendored_openmp"] == [str(vendored)]


@needs_compiler
def test_the_hosts_cuda_library_in_the_process_fails(prefix, tmp_path):
    own, host = library(prefix.root / "lib", "libcudart.so.12"), library(tmp_path / "cuda-11.8", "libcudart.so.11.0")
    assert prefix.check("identity.libraries", LD_PRELOAD=str(own)).status == "not_run"
    result = prefix.check("identity.libraries", LD_PRELOAD=f"{own}:{host}")
    assert result.status == "failed" and result.finding == f"loaded from outside the environment: {host}"
    assert "unset LD_LIBRARY_PATH" in result.remedy


@needs_compiler
def test_a_library_that_the_environment_links_to_is_its_own(prefix, tmp_path):
    """As conda's soft links into its package cache."""
    real = library(tmp_path / "pkgs", "libcudart.so.12.8")
    (prefix.root / "lib").mkdir(exist_ok=True)
    (prefix.root / "lib" / "libcudart.so.12").symlink_to(real)
    result = prefix.check("identity.libraries", LD_PRELOAD=str(prefix.root / "lib/libcudart.so.12"))
    assert result.status == "not_run" and result.details["outside"] == []


def test_with_no_torch_loaded_nothing_was_seen_and_that_is_not_ok(prefix):
    """A process that never came to import torch has no foreign library in it."""
    result = prefix.check("identity.libraries")
    assert result.status == "not_run" and "torch isn't loaded" in result.finding


def test_a_driver_library_and_torchs_vendored_copies_are_not_foreign():
    libraries = map(
        Path, ["/usr/lib/libcuda.so.1", "/usr/lib/libnvidia-ml.so.1", "/env/torchvision.libs/libcudart.e8e8b82a.so.12"]
    )
    assert _libraries.foreign(libraries, [Path("/env")]) == []
    assert _libraries.foreign([Path("/opt/libtorch_cuda.so")], [Path("/env")]) == [Path("/opt/libtorch_cuda.so")]


def test_maps_are_read_with_spaces_and_deleted_files(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 08:01 1   /a folder/libgomp.so.1\n7f00-7f01 r--p 00000000 00:00 0 \n"
        "7f00-7f01 r-xp 00000000 08:01 1   /x/libomp.so (deleted)\n7f00-7f01 r-xp 00000000 00:00 0   [vdso]\n"
    )
    assert _libraries.loaded(maps) == [Path("/a folder/libgomp.so.1"), Path("/x/libomp.so")]
    assert _libraries.loaded(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LD_PRELOAD": "/opt/site/lib64/libtrack_init.so"}, "LD_PRELOAD names /opt/site/lib64/libtrack_init.so"),
        ({"LD_PRELOAD": "libtrack_init.so"}, "LD_PRELOAD names libtrack_init.so, which can't be loaded"),
        ({"KMP_DUPLICATE_LIB_OK": "TRUE"}, "KMP_DUPLICATE_LIB_OK silences OpenMP's check"),
        ({"LD_PRELOAD": "ALLOCATOR"}, None),
        ({"LD_PRELOAD": "INTEL"}, "LD_PRELOAD loads "),
    ],
    ids=["a path that isn't there", "a name that isn't there", "the silencer", "an allocator", "intel's OpenMP"],
)
@needs_compiler
def test_variables_that_bring_another_runtime_are_named(prefix, tmp_path, variables, words):
    for word, name in (("ALLOCATOR", "libtcmalloc.so.4"), ("INTEL", "libiomp5.so")):
        if word in variables.values():
            variables = {"LD_PRELOAD": str(library(tmp_path / "host", name))}
    result = prefix.check("identity.pollution", **variables)
    if words is None:
        assert result.status == "passed"
    else:
        assert result.status == "warning" and words in result.finding

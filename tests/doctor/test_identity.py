"""Identity checks, in prefixes whose packages are written for the test."""

from __future__ import annotations

import base64
import hashlib
import sys

import pytest
import yaml

from cogvideo_sat_env.base.paths import DATA
from cogvideo_sat_env.doctor.checks import identity
from cogvideo_sat_env.doctor.checks._probe import ProbeRequest

SAT_CODE = "name = 'SwissArmyTransformer'\n"


def complete(prefix, **versions: str) -> None:
    """Give the prefix every requirement at its floor; `versions` changes some ("none": left out)."""
    for item in yaml.safe_load((DATA / "requirements.yml").read_text())["requirements"]:
        version = versions.get(item["name"].replace("-", "_"), str(item.get("floor") or "9.0"))
        if version != "none":
            prefix.distribution(item["name"], version)


def sat(prefix, code: str = SAT_CODE) -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(SAT_CODE.encode()).digest()).rstrip(b"=").decode()
    prefix.distribution("SwissArmyTransformer", "0.4.12", f"sat/__init__.py,sha256={digest},{len(SAT_CODE)}\n")
    if code is not None:
        prefix.file("lib/site/sat/__init__.py", code)


def test_the_right_sat_and_one_decord_pass(prefix):
    sat(prefix)
    prefix.distribution("decord", "0.6.0")
    result = prefix.check("identity.distribution")
    assert result.status == "passed"
    assert result.finding == "SwissArmyTransformer 0.4.12 provides sat, decord 0.6.0 provides decord"


def test_pypis_sat_is_named(prefix):
    sat(prefix)
    prefix.distribution("sat", "1.0")
    result = prefix.check("identity.distribution")
    assert result.status == "failed" and "PyPI's unrelated package sat 1.0" in result.finding
    assert "pip uninstall -y sat" in result.remedy and "SwissArmyTransformer==0.4.12" in result.remedy


@pytest.mark.parametrize(
    ("code", "words"),
    [("name = 'another'\n", "missing or were overwritten, e.g. sat/__init__.py"), (None, "is gone")],
    ids=["overwritten", "removed"],
)
def test_a_damaged_sat_is_named(prefix, code, words):
    sat(prefix, code)
    result = prefix.check("identity.distribution")
    assert result.status == "failed" and words in result.finding


def test_a_missing_sat_is_named(prefix):
    assert prefix.check("identity.distribution").finding == "SwissArmyTransformer is not installed"


def test_two_packages_with_the_module_decord_are_named(prefix):
    sat(prefix)
    prefix.distribution("decord", "0.6.0")
    prefix.distribution("eva-decord", "0.6.1")
    result = prefix.check("identity.distribution")
    assert result.status == "failed" and "decord and eva-decord overwrite each other" in result.finding


def test_all_requirements_at_their_floors_pass(prefix):
    complete(prefix)
    result = prefix.check("identity.floors")
    assert result.status == "passed" and " requirements installed, none below" in result.finding


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scipy": "1.9.3"}, "scipy 1.9.3 is below 1.14.1"),
        ({"fsspec": "2023.12.2"}, "fsspec 2023.12.2 is below 2024.2.0"),
        ({"imageio_ffmpeg": "none"}, "not installed: imageio-ffmpeg"),
        ({"triton": "none", "wandb": "0.17"}, "not installed: triton; wandb 0.17 is below 0.18.5"),
        ({"wandb": "9e"}, "wandb has the version '9e', which can't be compared with 0.18.5"),
    ],
    ids=repr,
)
def test_what_is_missing_or_too_old_is_named(prefix, changes, words):
    complete(prefix, **changes)
    result = prefix.check("identity.floors")
    assert (result.status, result.finding) == ("failed", words) and "satenv create" in result.remedy


@pytest.mark.parametrize(("name", "version"), [("decord2", "3.4.0"), ("eva-decord", "0.6.1")])
def test_other_decords_count_as_decord(prefix, name, version):
    complete(prefix, decord="none")
    prefix.distribution(name, version)
    result = prefix.check("identity.floors")
    assert result.status == "passed" and result.details["versions"]["decord"] == f"{version} ({name})"


def test_a_data_only_environment_needs_no_training_packages(prefix):
    complete(prefix, SwissArmyTransformer="none", deepspeed="none", triton="none", datasets="none")
    assert prefix.check("identity.floors").status == "failed"
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"data_only": true}')
    assert prefix.check("identity.floors").status == "passed"


def test_the_bounds_of_the_ledger_hold(prefix):
    for name, version in {"torch": "2.10.0+cu128", "torchvision": "0.25.0", "numpy": "2.4.6"}.items():
        prefix.distribution(name, version)
    result = prefix.check("identity.bounds")
    assert result.status == "passed", result.finding


@pytest.mark.parametrize(
    ("version", "status"), [((3, 11), "passed"), ((3, 12), "passed"), ((3, 13), "passed"), ((3, 9), "warning")]
)
def test_a_python_that_sat_was_run_with_is_no_warning(monkeypatch, tmp_path, version, status):
    monkeypatch.setattr(identity.sys, "version_info", (*version, 1))
    monkeypatch.setattr(identity, "installed", dict)
    outcome = identity.bounds(ProbeRequest(tmp_path, tmp_path, {"bounds": [{"id": "x", "name": "a", "bound": "<2"}]}))
    assert outcome.status == status and ("{satenv} create --python" in (outcome.remedy or "")) == (status == "warning")


@pytest.mark.parametrize(
    ("name", "version", "remedy"),
    [
        ("torch", "2.11.0+cu129", "mamba install 'pytorch<2.11' 'torchvision<0.26'"),
        ("torchvision", "0.26.0", "mamba install 'torchvision<0.26' 'pytorch<2.11'"),
        ("webdataset", "1.0.2", "pip install 'webdataset<0.2.88'"),
        ("numpy", "1.26.4", "mamba install 'numpy>=2'"),
        ("datasets", "2.14.7", "mamba install 'datasets>=4'"),
    ],
)
def test_a_broken_bound_is_named_with_the_ledgers_remedy(prefix, name, version, remedy):
    prefix.distribution(name, version)
    prefix.file("conda-meta/history", "")
    result = prefix.check("identity.bounds")
    assert result.status == "failed" and f"{name} {version}, expected" in result.finding and result.remedy == remedy


def test_a_torchvision_of_another_torch_is_named(prefix):
    prefix.distribution("torch", "2.10.0+cu128")
    prefix.distribution("torchvision", "0.24.1")
    metadata = prefix.root / "lib/site/torchvision-0.24.1.dist-info/METADATA"
    text = metadata.read_text()
    for wanted, status in (("==2.9.1", "failed"), ("==2.10.0", "passed"), ("", "passed")):
        metadata.write_text(f"{text}Requires-Dist: numpy\nRequires-Dist: torch {wanted}\n")
        result = prefix.check("identity.bounds")
        if status == "failed":
            assert result.finding == "torchvision 0.24.1 was built for torch ==2.9.1, and torch is 2.10.0+cu128"
        assert (result.status == "failed") == (status == "failed")


def test_a_clean_shell_has_no_pollution(prefix):
    assert prefix.check("identity.pollution").status == "passed"


def test_pythonpath_is_told(prefix):
    result = prefix.check("identity.pollution", PYTHONPATH="/opt/site-modules")
    assert result.status == "warning" and "PYTHONPATH=/opt/site-modules" in result.finding
    assert result.remedy == "unset PYTHONPATH"


def test_foreign_libraries_in_ld_library_path_are_told_drivers_are_not(prefix, tmp_path):
    driver, cuda = tmp_path / "driver", tmp_path / "cuda" / "lib64"
    for folder, names in ((driver, ["libcuda.so.1", "libnvidia-ml.so.1"]), (cuda, ["libcudart.so.11.0", "libcuda.so"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    assert prefix.check("identity.pollution", LD_LIBRARY_PATH=f"{driver}:/no/such/folder").status == "passed"
    result = prefix.check("identity.pollution", LD_LIBRARY_PATH=f"{driver}:{cuda}")
    assert result.status == "warning" and f"LD_LIBRARY_PATH has {cuda}, whose libcudart.so.11.0" in result.finding


def test_a_module_of_the_sites_loaded_afterwards_is_told_with_what_is_loaded(prefix, tmp_path):
    """What hides the environment's own needn't be CUDA's: any library that both have, but for the driver's."""
    mpi, driver = tmp_path / "openmpi" / "lib", tmp_path / "driver"
    for folder, names in ((mpi, ["libmpi.so.40", "libhwloc.so.15", "libz.so.1"]), (driver, ["libOpenCL.so.1"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    for name in ("libhwloc.so.15", "libz.so.1", "libOpenCL.so.1"):
        prefix.file(f"lib/{name}", "")
    result = prefix.check(
        "identity.pollution", LD_LIBRARY_PATH=f"{mpi}:{driver}", LOADEDMODULES="cogvideo-sat/current:openmpi/4.1"
    )
    assert result.status == "warning" and "libhwloc.so.15, libz.so.1 hide the environment's" in result.finding
    assert "libmpi" not in result.finding and "libOpenCL" not in result.finding
    assert result.remedy == (
        "unset LD_LIBRARY_PATH, or module unload what has set it (loaded: cogvideo-sat/current, openmpi/4.1)"
    )


def test_libraries_of_the_environment_itself_are_no_pollution(prefix):
    prefix.file("lib/libcudart.so.12", "")
    assert prefix.check("identity.pollution", LD_LIBRARY_PATH=str(prefix.root / "lib")).status == "passed"


def test_the_hosts_cuda_is_told_where_the_environment_has_its_own(prefix, tmp_path):
    host = str(tmp_path / "cuda-11.8")
    assert prefix.check("identity.pollution", CUDA_HOME=host).status == "passed"
    prefix.program("nvcc", "exit 0\n")
    result = prefix.check("identity.pollution", CUDA_HOME=host)
    assert result.status == "warning" and f"CUDA_HOME={host}" in result.finding


def test_a_package_in_the_user_site_that_shadows_the_environments_is_told(prefix, tmp_path):
    base = tmp_path / "user-base"
    folder = base / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for name in ("wandb", "black"):
        info = folder / f"{name}-0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    prefix.distribution("wandb", "0.31.0")
    result = prefix.check("identity.pollution", PYTHONUSERBASE=str(base))
    assert result.status == "warning" and "shadows wandb" in result.finding and "black" not in result.finding
    assert prefix.check("identity.pollution", PYTHONUSERBASE=str(base), PYTHONNOUSERSITE="1").status == "passed"

"""Identity by what was recorded: receipt, lock, conda's records, bytes; in prefixes that are really changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest

from cogvideo_sat_env.doctor.lock_of_prefix import locked

SITE = "lib/python3.11/site-packages"


@pytest.fixture
def linked(prefix):
    """A prefix of two conda packages, as its receipt says."""
    prefix.record("numpy", "2.4.6", {
        f"{SITE}/numpy/__init__.py": "__version__ = '2.4.6'\n",
        f"{SITE}/numpy-2.4.6.dist-info/METADATA": "Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.6\n",
        "lib/libnumpy.so": "not really\n",
    })  # fmt: skip
    prefix.record("kornia", "0.9.0", {
        f"{SITE}/kornia/__init__.py": "",
        f"{SITE}/kornia-0.9.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: kornia\nVersion: 0.9.0\n",
    })  # fmt: skip
    write_receipt(prefix)
    return prefix


def write_receipt(prefix, **changes) -> None:
    receipt = {
        "schema": 1, "source": "channel", "platform": "linux-64", "data_only": False, "not_provided": [], "pip": [], "files": {},
        "packages": [{"name": "numpy", "version": "2.4.6", "build": "0"}, {"name": "kornia", "version": "0.9.0", "build": "0"}],
    }  # fmt: skip
    prefix.file("etc/cogvideo-sat-env/receipt.json", json.dumps(receipt | changes))


def pip_install(prefix, name: str, version: str, *files: str) -> None:
    """What pip leaves in site-packages, conda's records untouched."""
    info = f"{name}-{version}.dist-info"
    prefix.file(f"{SITE}/{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    prefix.file(f"{SITE}/{info}/INSTALLER", "pip\n")
    prefix.file(f"{SITE}/{info}/RECORD", "".join(f"{file},,\n" for file in files))
    for file in files:
        prefix.file(f"{SITE}/{file}", f"# of {name} {version}\n")


def test_packages_as_in_the_receipt_pass(linked):
    result = linked.check("identity.receipt")
    assert result.status == "passed" and result.finding.startswith("2 packages as in the receipt (source channel)")


def test_without_a_receipt_it_is_not_run(prefix):
    assert prefix.check("identity.receipt").status == "not_run"


def test_a_package_that_is_gone_fails_and_one_that_differs_or_was_added_is_told(linked):
    (linked.root / "conda-meta/numpy-2.4.6-0.json").rename(linked.root / "conda-meta/numpy-1.26.0-py311_1.json")
    linked.file("conda-meta/black-25.1.0-0.json", "{}")
    result = linked.check("identity.receipt")
    assert result.status == "warning" and "numpy 1.26.0-py311_1 (receipt: 2.4.6-0)" in result.finding
    assert "1 package added since: black 25.1.0" in result.finding
    assert (
        f"satenv create --repair -p {linked.root} (keeps what conda added, moves aside what pip did)" in result.remedy
        and "--replace" not in result.remedy
    )
    (linked.root / "conda-meta/numpy-1.26.0-py311_1.json").rename(linked.root / "conda-meta/numpy-2.4.6-0.json")
    result = linked.check("identity.receipt")  # an addition alone harms nobody: the metapackage itself may be one
    assert result.status == "passed" and "1 package added since: black 25.1.0" in result.finding
    (linked.root / "conda-meta/kornia-0.9.0-0.json").unlink()
    result = linked.check("identity.receipt")
    assert result.status == "failed" and result.finding == "1 package of the receipt not in the environment: kornia"


def test_the_metapackage_on_top_is_named_and_no_damage(linked, project):
    """`conda install cogvideo-sat-env` adds it and may replace a piece by the recipe's build of the same version."""
    locked_receipt(linked, project)
    linked.file("conda-meta/black-25.1.0-0.json", "{}")
    linked.file("conda-meta/cogvideo-sat-env-0.1.0-cuda129_100.json", "{}")
    (linked.root / "conda-meta/kornia-0.9.0-0.json").rename(linked.root / "conda-meta/kornia-0.9.0-pyh1_0.json")
    for lock in ("the lock\n", "the lock, another platform relocked\n"):
        (project / "conda-lock.yml").write_text(lock)
        result = linked.check("identity.receipt")
        assert result.status == "passed", result.finding
        assert "2 packages added since: cogvideo-sat-env 0.1.0, black 25.1.0" in result.finding
        assert "another build of the same version: kornia 0.9.0-pyh1_0 (receipt: 0.9.0-0)" in result.finding
        assert "no damage" in result.finding
    explicit = project / "locks/conda-linux-64.lock"
    explicit.write_text(explicit.read_text().replace("numpy-2.4.6", "numpy-2.5.0"))
    result = linked.check("identity.receipt")
    assert result.status == "warning" and result.details["lock"] == ["numpy 2.4.6-0 (lock: 2.5.0-0)"]
    assert "leaves out what conda or mamba installed on top: cogvideo-sat-env 0.1.0" in result.remedy


def test_pip_packages_of_the_receipt_count(linked):
    write_receipt(linked, pip=[{"name": "decord", "version": "0.6.0"}, {"name": "webdataset", "version": "0.2.86"}])
    linked.distribution("webdataset", "1.0.2")
    result = linked.check("identity.receipt")
    assert result.status == "failed" and result.details["missing"] == ["decord (pip)"]
    assert result.details["differing"] == ["webdataset 1.0.2 (receipt: 0.2.86)"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a conda lock and its rendered explicit lockfile."""
    root = tmp_path / "project"
    (root / "locks").mkdir(parents=True)
    (root / "environment.yml").touch()
    (root / "conda-lock.yml").write_text("the lock\n")
    (root / "locks/conda-linux-64.lock").write_text(
        "@EXPLICIT\nhttps://example.org/linux-64/numpy-2.4.6-0.conda#00\nhttps://example.org/noarch/kornia-0.9.0-0.tar.bz2#00\n"
    )
    (root / "locks/pip-linux-64.txt").write_text("# pins\ndecord==0.6.0 --hash=sha256:00\n")
    monkeypatch.setenv("SATENV_PROJECT", str(root))
    return root


def locked_receipt(prefix, project, **changes) -> None:
    digest = hashlib.sha256((project / "conda-lock.yml").read_bytes()).hexdigest()
    write_receipt(
        prefix, lock="conda-lock.yml", lock_sha256=digest, pip=[{"name": "decord", "version": "0.6.0"}], **changes
    )
    prefix.distribution("decord", "0.6.0")


def test_the_projects_lock_is_compared(linked, project):
    locked_receipt(linked, project)
    assert linked.check("identity.receipt").finding.endswith("and in the project's conda-lock.yml")
    (project / "conda-lock.yml").write_text("the lock, another platform relocked\n")
    result = linked.check("identity.receipt")
    assert result.status == "passed" and "has changed since, but not in these packages" in result.finding


def test_what_differs_from_a_newer_lock_is_named(linked, project):
    locked_receipt(linked, project)
    (project / "conda-lock.yml").write_text("a newer lock\n")
    explicit = project / "locks/conda-linux-64.lock"
    explicit.write_text(
        explicit.read_text()
        .replace("numpy-2.4.6", "numpy-2.5.0")
        .replace("kornia-0.9.0-0.tar.bz2", "einops-0.8.1-0.conda")
    )
    (project / "locks/pip-linux-64.txt").write_text("decord==0.7.0 --hash=sha256:00\n")
    result = linked.check("identity.receipt")
    assert result.status == "warning" and "conda-lock.yml has changed since: 4 packages differ" in result.finding
    assert sorted(result.details["lock"]) == [
        "decord 0.6.0 (lock: 0.7.0)", "einops missing (lock: 0.8.1-0)", "kornia 0.9.0 (not in the lock)",
        "numpy 2.4.6-0 (lock: 2.5.0-0)",
    ]  # fmt: skip
    linked.file(
        "conda-meta/frozen", "{}"
    )  # a deployed release: its users can't update it, and a newer lock is no fault
    result = linked.check("identity.receipt")
    assert (result.status, result.remedy) == ("passed", None) and "stays as it was made" in result.finding


def test_the_lock_of_wheels_and_of_a_variant_are_found(project):
    (project / "locks/wheels-linux-64-py311.txt").write_text("numpy==2.4.6\n")
    found = locked({"lock": "wheels-linux-64-py311.txt", "lock_sha256": "0"})
    assert found["same"] is False and found["pins"] == [str(project / "locks/wheels-linux-64-py311.txt")]
    (project / "locks/linux-64-cpu-conda-lock.yml").touch()
    (project / "locks/conda-linux-64-cpu.lock").touch()
    found = locked({"lock": "locks/linux-64-cpu-conda-lock.yml", "lock_sha256": hashlib.sha256().hexdigest()})
    assert found["same"] is True and found["pins"] == [str(project / "locks/conda-linux-64-cpu.lock")]
    assert locked({"lock": "gone.yml"})["same"] is None and locked({}) is None
    own = project / "mine" / "conda-lock.yml"  # the user's, with the name of the project's
    own.parent.mkdir()
    own.write_text("changed since")
    assert locked({"lock": str(own), "lock_sha256": "0", "platform": "linux-64"}) == {
        "name": str(own),
        "same": False,
        "pins": [],
    }


def test_nothing_replaced_passes(linked):
    result = linked.check("identity.overwritten")
    assert (result.status, result.finding) == (
        "passed",
        "2 distributions, all conda's or the receipt's; nothing was replaced",
    )


def test_the_old_form_of_metadata_is_condas_too(linked):
    linked.record(
        "antlr",
        "4.9.3",
        {
            f"{SITE}/antlr4_runtime-4.9.3-py3.11.egg-info/PKG-INFO": "Metadata-Version: 1.0\nName: antlr4-runtime\nVersion: 4.9.3\n"
        },
    )
    result = linked.check("identity.overwritten")
    assert result.status == "passed" and "added" not in result.finding


def test_pip_in_place_of_a_conda_package_is_told(linked):
    """What `pip install numpy==1.26.0` does: conda's files go, conda's record stays."""
    shutil.rmtree(linked.root / SITE / "numpy-2.4.6.dist-info")
    pip_install(linked, "numpy", "1.26.0", "numpy/__init__.py")
    result = linked.check("identity.overwritten")
    assert (
        result.status == "warning"
        and result.finding == "installed over conda's packages: numpy 1.26.0 by pip over conda's numpy 2.4.6"
    )
    assert linked.check("identity.files").status == "failed"


def test_pip_over_files_of_another_package_is_told(linked):
    pip_install(linked, "kornia-fork", "0.1", "kornia/__init__.py", "../../../lib/libnumpy.so")
    result = linked.check("identity.overwritten")
    assert result.status == "warning" and "kornia-fork 0.1 by pip over files of conda's kornia, numpy" in result.finding
    python = f"'{linked.root}/bin/python' -m pip uninstall -y kornia-fork; then"
    assert f"{python} ./scripts/satenv create --repair -p {linked.root};" in result.remedy
    (linked.root / "etc/cogvideo-sat-env/receipt.json").unlink()  # an environment that mamba made: no repair
    assert f"{python} create the environment again from the lock" in linked.check("identity.overwritten").remedy


def test_what_pip_added_is_no_harm_and_what_the_receipt_knows_no_addition(linked):
    pip_install(linked, "decord", "0.6.0", "decord/__init__.py")
    assert "added by pip since: decord 0.6.0" in linked.check("identity.overwritten").finding
    write_receipt(linked, pip=[{"name": "decord", "version": "0.6.0"}])
    assert "nothing was replaced" in linked.check("identity.overwritten").finding


def test_whole_files_pass_and_the_finding_says_what_was_compared(linked):
    linked.file(f"{SITE}/numpy/__pycache__/__init__.cpython-311.pyc", "anything")
    result = linked.check("identity.files")
    assert result.status == "passed" and result.finding.startswith(
        "as recorded: 5 files (0.0 GB) by SHA-256; 0 bytecode"
    )
    assert result.details["hashed"] == 5


@pytest.mark.parametrize("how", ["changed, same size", "truncated", "removed", "replaced by a folder"])
def test_a_file_that_is_not_what_was_linked_is_named_with_its_package(linked, how):
    path = linked.root / SITE / "numpy/__init__.py"
    text = path.read_text()
    if how == "changed, same size":
        path.write_text(text.replace("2", "3"))
    elif how == "truncated":
        path.write_text(text[:5])
    else:
        path.unlink()
        if how != "removed":
            path.mkdir()
    result = linked.check("identity.files")
    word = "missing" if how == "removed" else "changed"
    assert result.status == "failed" and f"1 {word} (numpy: {SITE}/numpy/__init__.py)" in result.finding
    assert result.details[word] == {"numpy": [f"{SITE}/numpy/__init__.py"]} and "--repair" in result.remedy


def test_files_of_the_pip_stage_are_compared_with_the_receipt(linked):
    content = linked.file(f"{SITE}/sat/__init__.py", "sat\n").read_bytes()
    state = linked.file("conda-meta/state", "{}")
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_receipt(linked, files={f"{SITE}/sat/__init__.py": entry, "conda-meta/state": entry})
    assert state.stat().st_size != entry["size"]  # the user's own variables: allowed
    assert linked.check("identity.files").details["hashed"] == 6
    linked.file(f"{SITE}/sat/__init__.py", "cat\n")
    assert "the receipt: " in linked.check("identity.files").finding


def test_when_time_is_up_the_finding_says_so(linked):
    result = linked.check("identity.files", options={"identity.seconds": 0})
    assert (
        result.status == "passed"
        and "5 more only by size (time was up)" in result.finding
        and result.details["hashed"] == 0
    )


def test_what_conda_wrote_the_prefix_into_is_compared_with_the_hash_after_that(linked):
    content = linked.file("bin/tool", f"#!{linked.root}/bin/python\n").read_bytes()
    record = linked.root / "conda-meta/numpy-2.4.6-0.json"
    data = json.loads(record.read_text())
    data["paths_data"]["paths"].append({
        "_path": "bin/tool", "path_type": "hardlink", "size_in_bytes": 3, "sha256": "0" * 64, "file_mode": "text",
        "sha256_in_prefix": hashlib.sha256(content).hexdigest(), "prefix_placeholder": "/opt/placeholder",
    })  # fmt: skip
    os.symlink("tool", linked.root / "bin/tool-link")
    data["paths_data"]["paths"].append({"_path": "bin/tool-link", "path_type": "softlink", "sha256": "1" * 64})
    record.write_text(json.dumps(data))
    assert linked.check("identity.files").status == "passed"
    (linked.root / "bin/tool-link").unlink()
    assert "bin/tool-link" in linked.check("identity.files").finding


def test_a_record_that_cannot_be_read_is_named(linked):
    linked.file("conda-meta/numpy-2.4.6-0.json", "{")
    result = linked.check("identity.files")
    assert result.status == "failed" and "numpy-2.4.6-0.json: not a record of conda's" in result.finding

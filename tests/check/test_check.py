"""`satenv check` names every disagreement, and the command that corrects it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from cogvideo_sat_env.check import agreement, recipe
from cogvideo_sat_env.lock import conda_lock
from cogvideo_sat_env.package.build.outputs import Output
from cogvideo_sat_env.spec.breakage import read_ledger
from cogvideo_sat_env.spec.environment import Environment, read_environment
from cogvideo_sat_env.spec.requirements import read_requirements
from cogvideo_sat_env.spec.variants import Variant, render_environment

PROJECT = Path(__file__).parents[2]
LOCKS = {path.read_bytes() for path in (PROJECT / "conda-lock.yml", *PROJECT.glob("locks/*-conda-lock.yml"))}
_rendered: dict[tuple, list[Output]] = {}
_parsed: dict[bytes, tuple] = {}
_hashes: dict[tuple, str] = {}


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipe and locks are the same in most of these projects, and to read them takes longer than all the rest."""
    render, parse, content_hash = recipe.render, agreement.load_lock, conda_lock.content_hash

    def read(folder: Path, platform: str) -> list[Output]:
        key = ((folder / "recipe.yaml").read_bytes(), platform)
        if key not in _rendered:
            _rendered[key] = render(folder, platform)
        return _rendered[key]

    def load(path: Path) -> tuple:
        content = path.read_bytes() if path.is_file() else b""
        if content not in LOCKS:
            return parse(path)
        if content not in _parsed:
            _parsed[content] = parse(path)
        return _parsed[content]

    def hashed(environment: Environment, variant: Variant) -> str:
        key = (render_environment(environment, variant), repr(variant))
        if key not in _hashes:
            _hashes[key] = content_hash(environment, variant)
        return _hashes[key]

    monkeypatch.setattr(conda_lock, "content_hash", hashed)
    monkeypatch.setattr(recipe, "render", read)
    monkeypatch.setattr(agreement, "load_lock", load)


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text, f"the test's own assumption about {path}"
    path.write_text(text.replace(old, new, count))


def findings(root: Path) -> list[str]:
    return [f"{finding.file}: {finding.message} | {finding.remedy}" for finding in agreement.check_project(root)]


def only_finding(root: Path, pattern: str) -> None:
    found = findings(root)
    assert any(re.search(pattern, finding) for finding in found), found


def test_the_project_agrees_with_itself():
    assert findings(PROJECT) == []


def test_a_bound_without_an_entry_is_named(project):
    edit(project / "environment.yml", "omegaconf >=2.3.0 ", "omegaconf >=2.3.0,<2.4 ")
    only_finding(project, r"environment\.yml:\d+: bound '<2\.4' of omegaconf has no entry in the breakage ledger")


def test_an_entry_without_a_bound_is_named(project):
    edit(project / "environment.yml", "torchvision >=0.20.1,<0.26 ", "torchvision >=0.20.1 ")
    only_finding(project, r"breakage\.yml:\d+: entry 'torchvision-0\.26': environment\.yml has no bound '<0\.26'")


def test_a_floor_below_the_requirement_is_named(project):
    edit(project / "environment.yml", "wandb >=0.18.5 ", "wandb >=0.18.4 ")
    only_finding(project, r"environment\.yml:\d+: 'wandb >=0\.18\.4' goes below the floor of wandb, 0\.18\.5")


def test_a_missing_floor_is_named(project):
    edit(project / "environment.yml", "wandb >=0.18.5 ", "wandb ")
    only_finding(project, r"'wandb' goes below the floor of wandb")


def test_a_missing_requirement_is_named(project):
    edit(project / "environment.yml", "  - einops  # tensor rearrangement\n", "")
    only_finding(project, r"environment\.yml: requirement einops \(tensor rearrangement\) is missing")


def test_a_missing_variable_is_named(project):
    edit(
        project / "environment.yml",
        '  TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: "1"',
        '  TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: "0"',
    )
    only_finding(project, r"entry 'torch-weights-only': environment\.yml must set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


def test_a_spec_newer_than_its_lock_is_named(project):
    edit(project / "environment.yml", "  - tqdm  # progress\n", "  - tqdm  # progress\n  - pyarrow >=99\n")
    only_finding(
        project, r"conda-lock\.yml: linux-64: was made from another environment\.yml.*lock --only linux-64-cuda"
    )
    only_finding(project, r"conda-lock\.yml: linux-64: the spec asks for 'pyarrow >=99'")
    only_finding(project, r"environments/linux-64-cpu\.yml:\d+: differs from what it is generated from.*--render")


@pytest.mark.parametrize(
    "path",
    [
        "environments/linux-aarch64.yml",
        "locks/conda-linux-64.lock",
        "locks/pip-linux-64-cpu.txt",
        "locks/packages-osx-arm64.txt",
        "locks/virtual-packages-osx-arm64.yml",
        "recipe/pins.txt",
    ],
)
def test_a_generated_file_edited_by_hand_is_named(project, path):
    text = (project / path).read_text()
    (project / path).write_text(text + "# by hand\n")
    only_finding(project, rf"{re.escape(path)}:\d+: differs from what it is generated from")


def test_a_generated_part_of_the_recipe_edited_by_hand_is_named(project):
    edit(project / "recipe/recipe.yaml", "        - kornia >=0.7.3\n", "        - kornia >=0.7.2\n")
    only_finding(project, r"recipe/recipe\.yaml:\d+: differs from what it is generated from.*--render")


def test_a_missing_generated_file_is_named(project):
    (project / "locks/conda-osx-arm64.lock").unlink()
    only_finding(project, r"locks/conda-osx-arm64\.lock: is missing")


def test_a_missing_lock_is_named(project):
    (project / "conda-lock.yml").unlink()
    only_finding(project, r"conda-lock\.yml: .*no such file")


LOCK_FAULTS = {
    "no sha256": (r"    sha256: c0cddb66\w+\n", "", r"_openmp_mutex: expected a SHA-256 of 64 hex digits, found ''"),
    "short sha256": (r"sha256: c0cddb66", "sha256: c0cd", r"_openmp_mutex: expected a SHA-256"),
    "foreign channel": (
        r"url: https://conda\.anaconda\.org/conda-forge/linux-64/_openmp_mutex",
        "url: https://conda.example.org/mine/linux-64/_openmp_mutex",
        r"_openmp_mutex: 'https://conda\.example\.org/mine' is not a channel of the spec",
    ),
    "no https": (
        r"url: https://conda\.anaconda\.org/conda-forge/linux-64/_openmp_mutex",
        "url: http://conda.anaconda.org/conda-forge/linux-64/_openmp_mutex",
        r"_openmp_mutex: 'http://conda\.anaconda\.org/conda-forge' is not a channel",
    ),
    "wrong subdir": (
        r"linux-64/_openmp_mutex",
        "win-64/_openmp_mutex",
        r"subdir 'win-64' is neither 'linux-64' nor noarch",
    ),
    "unnamed platform": (r"  platform: linux-64", "  platform: linux-ppc64le", r"is for 'linux-ppc64le', which"),
    "other package": (
        r"linux-64/_openmp_mutex-4\.5",
        "linux-64/_openmp_mutex-4.6",
        r"_openmp_mutex 4\.5: the URL is of",
    ),
    "index host": (
        r"url: \$\{SATENV_WHEELHOUSE\}/",
        "url: https://index.example.org/",
        r"an index's host may stand in no lock",
    ),
}


@pytest.mark.parametrize("fault", LOCK_FAULTS)
def test_a_faulty_lock_entry_is_named(project, fault):
    pattern, replacement, expected = LOCK_FAULTS[fault]
    path = project / "conda-lock.yml"
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    only_finding(project, rf"conda-lock\.yml:\d+: .*{expected}")


def test_an_entry_that_stands_twice_is_named(project):
    path = project / "conda-lock.yml"
    text = path.read_text()
    start = text.index("- name: _openmp_mutex")
    entry = text[start : text.index("- name: ", start + 5)]
    path.write_text(text.rstrip() + "\n" + entry)
    only_finding(project, r"conda-lock\.yml:\d+: _openmp_mutex stands twice for linux-64 \(first on line \d+\)")


def test_a_dependency_outside_the_lock_is_named(project):
    path = project / "conda-lock.yml"
    text = path.read_text()
    start = text.index("- name: llvm-openmp\n")
    path.write_text(text[:start] + text[text.index("- name: ", start + 5) :])
    only_finding(project, r"linux-64: _openmp_mutex needs 'llvm-openmp >=9\.0\.1', the lock has nothing")


def test_a_dependency_of_the_wrong_version_is_named(project):
    edit(project / "conda-lock.yml", "    llvm-openmp: '>=9.0.1'", "    llvm-openmp: '>=99'")
    only_finding(project, r"linux-64: _openmp_mutex needs 'llvm-openmp >=99', the lock has 2\d")


def test_a_wheel_lock_of_another_spec_is_named(project):
    edit(project / "environment.yml", "scipy >=1.14.1 ", "scipy >=1.99 ")
    only_finding(project, r"locks/wheels-linux-64-py311\.txt: was made from another environment\.yml.*--wheels")
    only_finding(project, r"locks/wheels-linux-64-py311\.txt: the spec asks for 'scipy >=1\.99', the lock has 1\.\d+")


def test_a_wheel_lock_without_a_hash_is_named(project):
    path = project / "locks/wheels-linux-64-py311.txt"
    path.write_text(re.sub(r"^(torch==\S+) --hash=\S+", r"\1", path.read_text(), flags=re.M))
    only_finding(project, r"wheels-linux-64-py311\.txt:\d+: 'torch==2\.10\.0")


def test_missing_wheel_locks_are_named(project):
    for path in (project / "locks").glob("wheels-*.txt"):
        path.unlink()
    only_finding(project, r"locks: no wheel lock")


def test_metadata_that_was_frozen_for_another_spec_is_named(project):
    shutil.copytree(PROJECT / "metadata", project / "metadata")
    edit(project / "metadata/manifest.json", '"scipy"', '"skipy"')
    only_finding(project, r"metadata/manifest\.json: was frozen without scipy \| .*satenv freeze metadata")
    (project / "metadata/manifest.json").write_text("[]")
    only_finding(project, r"metadata/manifest\.json: .*not the manifest of frozen metadata")


def test_the_generated_table_of_pieces_and_their_placements_are_compared(project):
    (project / "docs").mkdir()
    page = project / "docs/install.md"
    page.write_text((PROJECT / "docs/install.md").read_text().replace("| deepspeed | pip", "| deepspeed | conda"))
    only_finding(project, r"docs/install\.md:\d+: differs from what it is generated from")
    page.unlink()
    (project / "locks/pieces.json").unlink()
    assert "locks/pieces.json: is missing" in "\n".join(findings(project))


def test_metadata_that_lacks_a_locked_record_names_it(project):
    shutil.copytree(PROJECT / "metadata", project / "metadata")
    folder = project / "metadata" / "conda-forge" / "noarch"
    text = zstandard.ZstdDecompressor().decompress((folder / "repodata.json.zst").read_bytes(), 1 << 28)
    name = re.search(r"noarch/(omegaconf-\S+\.conda)", (project / "conda-lock.yml").read_text())[1]
    content = json.loads(text)
    del content["packages.conda"][name]
    packed = zstandard.compress(json.dumps(content).encode())
    (folder / "repodata.json.zst").write_bytes(packed)
    only_finding(project, r"metadata: .*noarch/repodata\.json\.zst: expected SHA-256 .*satenv freeze metadata")
    manifest = json.loads((project / "metadata/manifest.json").read_text())
    manifest["files"]["conda-forge/noarch/repodata.json.zst"]["sha256"] = hashlib.sha256(packed).hexdigest()
    (project / "metadata/manifest.json").write_text(json.dumps(manifest))
    only_finding(project, rf"metadata: lacks what the locks hold: {name} \(1 in all\) \| .*satenv freeze metadata")


def test_a_missing_size_is_named(project):
    (project / "locks/sizes.json").write_text("{}\n")
    only_finding(project, r"locks/sizes\.json: no size for")


def test_a_proof_that_does_not_exist_is_named():
    ledger = read_ledger()
    entry = ledger.entries[0]
    gone = replace(
        entry, proof=replace(entry.proof, tests=("tests/lock/test_bounds.py::test_gone",), checks=("no.such",))
    )
    found = agreement.check_proofs(PROJECT, replace(ledger, entries=(gone,)))
    assert [finding.message for finding in found][:2] == [
        f"entry '{entry.id}': its proof 'tests/lock/test_bounds.py::test_gone' does not exist",
        f"entry '{entry.id}': its proof 'no.such' does not exist",
    ]


def test_unequal_bounds_of_one_entry_are_named():
    ledger = read_ledger()
    entry = next(entry for entry in ledger.entries if entry.pypi_bound)
    environment = read_environment(PROJECT / "environment.yml")
    changed = replace(ledger, entries=tuple(replace(e, pypi_bound="<9") if e is entry else e for e in ledger.entries))
    found = agreement.check_ledger(environment, read_requirements(), changed)
    assert f"bound '{entry.bound}' and pypi bound '<9' differ" in found[0].message


def test_the_command_says_so_and_exits_with_1(project):
    edit(project / "environment.yml", "wandb >=0.18.5 ", "wandb >=0.18.4 ")
    run = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env", "check"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT / "src"), "SATENV_PROJECT": str(project)},
    )
    assert run.returncode == 1
    assert "goes below the floor of wandb, 0.18.5\n    remedy: write >=0.18.5 there" in run.stdout
    assert run.stderr == ""

"""Pieces of the pip part come from conda as soon as a channel has them, and go back when it hasn't any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
import zstandard

from cogvideo_sat_env.base.errors import InputError, SolveError
from cogvideo_sat_env.base.progress import Silent
from cogvideo_sat_env.check.agreement import check_project
from cogvideo_sat_env.lock import relock
from cogvideo_sat_env.lock.edit_environment import HEADING, moved
from cogvideo_sat_env.lock.make import Solver
from cogvideo_sat_env.lock.place_pieces import place
from cogvideo_sat_env.spec.environment import read_environment
from cogvideo_sat_env.spec.pieces import pieces_of
from cogvideo_sat_env.spec.placement import Placement, read_placements
from cogvideo_sat_env.spec.variants import derive, read_variants

PROJECT = Path(__file__).parents[2]
VARIANTS = {variant.id: variant for variant in read_variants()}
PRIMARY = VARIANTS["linux-64-cuda"]
PYTHON = "python >=3.11"


def record(name: str, version: str, *depends: str, build: str = "0", subdir: str = "noarch") -> dict:
    return {
        "name": name, "version": version, "build": build, "build_number": 0, "subdir": subdir,
        **({"noarch": "python"} if subdir == "noarch" else {}), "depends": [PYTHON, *depends],
        "sha256": "c" * 64, "md5": "d" * 32, "size": 7, "timestamp": 1780000000000,
    }  # fmt: skip


# as conda-forge and `satenv build` have them
RECORDS = [
    record("swissarmytransformer", "0.4.12", "pytorch", "deepspeed", "webdataset <0.2.88"),
    record("deepspeed", "0.19.0", "python_abi 3.11.* *_cp311", "pytorch >=2.10.0,<2.11.0a0", "python-ninja",
           build="cuda129_py311_h0_0", subdir="linux-64"),
    record("decord", "0.6.0", "numpy >=1.14", build="py3_0", subdir="linux-64"),
    record("webdataset", "0.2.86", "braceexpand", "numpy", "pyyaml"),
    record("python-ninja", "1.13.2", "ninja"),
    record("peft", "0.21.2", "pytorch", "transformers", "accelerate"),
]  # fmt: skip


def metadata(folder: Path, *records: dict) -> Path:
    """The committed metadata, index part included, with a channel `pieces` of these records besides."""
    folder.mkdir()
    for name in ("conda-forge", "nvidia", "index"):
        (folder / name).symlink_to(PROJECT / "metadata" / name)
    for subdir in ("noarch", "linux-64"):
        here = {f"{r['name']}-{r['version']}-{r['build']}.conda": r for r in records if r["subdir"] == subdir}
        path = folder / "pieces" / subdir / "repodata.json.zst"
        path.parent.mkdir(parents=True)
        content = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": here}
        path.write_bytes(zstandard.compress(json.dumps(content).encode()))
    return folder


def with_channel(environment: Path) -> None:
    """A channel of ours before the others."""
    text = environment.read_text()
    environment.write_text(text.replace("  - conda-forge\n", "  - https://conda.example.org/pieces\n  - conda-forge\n"))


@pytest.fixture
def ours(project: Path) -> Path:
    """A project whose environment.yml has a comment of its own above a piece, and asks a channel of ours first."""
    path = project / "environment.yml"
    with_channel(path)
    note = "    # measured on our cluster: keep\n    - deepspeed"
    path.write_text(path.read_text().replace("    - deepspeed", note))
    (project / "docs").mkdir()
    shutil.copy(PROJECT / "docs/install.md", project / "docs")
    return project


def placed(root: Path, folder: Path, variant=PRIMARY, mode: str = "auto") -> dict[str, Placement]:
    return place(read_environment(root / "environment.yml"), variant, Solver(folder), mode)


@pytest.mark.slow
def test_each_piece_says_why_it_is_not_from_conda(ours, tmp_path):
    old_torch = record("decord", "0.6.0", "pytorch <2.10", build="py3_0", subdir="linux-64")
    nothing = record("peft", "0.21.2", "no-such-package >=1")
    folder = metadata(tmp_path / "metadata", *RECORDS[:2], old_torch, nothing)
    found = {name: placement.why for name, placement in placed(ours, folder).items()}
    assert found.pop("decord").startswith("0.6.0 would lower pytorch from 2.10.0 to 2.")
    assert found == {
        "SwissArmyTransformer": "0.4.12 doesn't solve together with the rest",  # webdataset below 0.2.88 isn't there
        "deepspeed": "0.19.0 doesn't solve together with the rest",
        "webdataset": "the channels have 1.0.2, which isn't <0.2.88",
        "ninja": "the channels have no python-ninja",
        "peft": "0.21.2 doesn't solve together with the rest",
    }
    with pytest.raises(
        SolveError, match=r"not everything comes from conda: .*ninja: the channels have no python-ninja"
    ):
        placed(ours, folder, mode="conda")
    assert {p.origin for p in placed(ours, folder, mode="pip").values()} == {"pip"}


@pytest.mark.slow
def test_pieces_that_fit_together_come_from_conda(ours, tmp_path):
    folder = metadata(tmp_path / "metadata", *RECORDS)
    assert set(placed(ours, folder).values()) == {Placement("conda")}
    arm = placed(ours, folder, VARIANTS["linux-aarch64-cuda"])  # no binaries for that platform in the channel
    assert {name for name, placement in arm.items() if placement.origin == "conda"} == {"webdataset", "ninja", "peft"}


def edited(environment, **places: str) -> str:
    pieces = pieces_of(environment, {})
    placements = {piece.name: Placement(places.get(piece.name, "pip"), "why" if piece.name not in places else "")
                  for piece in pieces}  # fmt: skip
    return moved(environment.path.read_text(), environment, pieces, placements)


def test_a_move_edits_only_the_lines_of_its_piece_and_back_gives_the_file_again(ours):
    path = ours / "environment.yml"
    path.write_text(edited(read_environment(path)))
    before = path.read_text()
    path.write_text(edited(read_environment(path), deepspeed="conda", ninja="conda", SwissArmyTransformer="conda"))
    after = read_environment(path)
    assert path.read_text().count(HEADING) == 1
    assert [str(after.conda_spec(n)) for n in ("swissarmytransformer", "deepspeed", "python-ninja")] == [
        "swissarmytransformer >=0.4.12", "deepspeed >=0.15.3", "python-ninja",
    ]  # fmt: skip
    assert "  # measured on our cluster: keep\n  - deepspeed >=0.15.3  # ZeRO, mixed precision\n" in path.read_text()
    assert {spec.name for spec in after.pip} == {"decord", "webdataset", "peft"}
    lines = set(before.splitlines())
    assert len([line for line in path.read_text().splitlines() if line not in lines]) == 5  # heading, 3 pieces, a note
    path.write_text(edited(after))
    assert path.read_text() == before


def test_when_all_pieces_move_no_empty_list_stays(ours):
    path = ours / "environment.yml"
    path.write_text(edited(read_environment(path)))
    before = path.read_text()
    everything = {piece.name: "conda" for piece in pieces_of(read_environment(path), {})}
    path.write_text(edited(read_environment(path), **everything))
    assert yaml.safe_load(path.read_text())["dependencies"][-1] == "peft >=0.18"
    path.write_text(edited(read_environment(path)))
    assert path.read_text() == before


@pytest.mark.parametrize(
    "dependencies",
    [
        "[python 3.11.*, {pip: [peft >=0.18, other]}]",
        "\n  - python 3.11.*\n  - {pip: [peft >=0.18, other]}",
        "\n  - pip: [peft >=0.18, other]",
    ],
)
def test_a_file_that_is_not_written_line_by_line_is_not_edited(tmp_path, dependencies):
    path = tmp_path / "environment.yml"
    path.write_text(f"channels: [conda-forge]\ndependencies: {dependencies}\n")
    with pytest.raises(InputError, match="pieces can't be moved in it: expected one dependency a line"):
        edited(read_environment(path), peft="conda")


def test_quotes_and_spellings_of_people_survive_a_move(tmp_path):
    path = tmp_path / "environment.yml"
    path.write_text(
        "channels: [conda-forge]\ndependencies:\n- python 3.11.*\n- pip:\n  - 'Peft==0.18.*'   # ours (see notes)\n"
        '  # about sat\n  - "SwissArmyTransformer"\n  - other==1\n'
    )
    path.write_text(edited(read_environment(path), peft="conda"))
    assert path.read_text().splitlines()[3:] == [
        f"{HEADING}", "- peft ==0.18.*  # ours (see notes)", "- pip:", "  # about sat",
        '  - "SwissArmyTransformer"  # (from pip: why)', "  - other==1",
    ]  # fmt: skip


def test_a_variant_follows_its_own_placement_wherever_environment_yml_has_the_piece(ours):
    path = ours / "environment.yml"
    path.write_text(edited(read_environment(path), decord="conda", deepspeed="conda", peft="conda"))
    places = {
        "linux-aarch64-cuda": {
            "deepspeed": {"from": "pip", "why": "none here"}, "decord": {"from": "conda"}, "kornia": {"from": "conda"},
            "peft": {"from": "conda"},
        },
        "osx-arm64-data": {"decord": {"from": "pip", "why": "none there"}},
    }  # fmt: skip
    (ours / "locks/pieces.json").write_text(json.dumps(places))
    environment = read_environment(path)
    arm = derive(environment, VARIANTS["linux-aarch64-cuda"], ours / "x.yml")
    assert arm.conda_spec("decord") and arm.conda_spec("kornia") and not arm.conda_spec("deepspeed")
    assert arm.pip_spec("deepspeed").comment == "ZeRO, mixed precision (from pip: none here)"
    assert not arm.pip_spec("decord2") and not arm.pip_spec("kornia") and arm.pip_spec("wandb")
    mac = derive(environment, VARIANTS["osx-arm64-data"], ours / "x.yml")
    assert {spec.name for spec in mac.pip} == {"eva-decord", "webdataset"}
    assert not any(mac.conda_spec(name) for name in ("decord", "deepspeed", "peft"))


@pytest.mark.parametrize("text", ["[]", "{", '{"linux-64-cuda": {"peft": {"from": "npm"}}}', '{"x": {"peft": "pip"}}'])
def test_a_broken_file_of_placements_is_named(ours, text):
    (ours / "locks/pieces.json").write_text(text)
    with pytest.raises(InputError, match=r"locks/pieces\.json: not what a lock writes"):
        read_environment(ours / "environment.yml")


def texts(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".bz2")
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


@pytest.mark.e2e
def test_one_lock_moves_a_piece_everywhere_and_one_moves_it_back(ours, tmp_path):
    """Spec, lock, rendered files and docs of that variant; the others stay, and so does what the recipe asks for."""
    wanted = [PRIMARY.id]
    without = Solver(metadata(tmp_path / "without"))
    relock.lock_project(ours, wanted=wanted, solver=without, progress=Silent())
    before = texts(ours)
    got = relock.lock_project(
        ours, wanted=wanted, solver=Solver(metadata(tmp_path / "with", *RECORDS)), progress=Silent()
    )
    assert "deepspeed: from conda (linux-64-cuda)\n" in got.pieces_text()
    moved_to = {"environment.yml", "conda-lock.yml",
                "locks/pieces.json", "locks/conda-linux-64.lock", "locks/pip-linux-64.txt", "docs/install.md",
                "locks/sizes.json", "locks/packages-linux-64.txt"}  # fmt: skip
    assert set(got.changed) == moved_to
    after = texts(ours)
    assert (
        "https://conda.example.org/pieces/linux-64/deepspeed-0.19.0-cuda129_py311_h0_0.conda" in after["conda-lock.yml"]
    )
    assert "deepspeed" not in after["locks/pip-linux-64.txt"] and "sat" not in after[
        "locks/pip-linux-64.txt"
    ].lower().split("==")
    assert "| deepspeed | conda 0.19.0 | pip 0.19.8 | pip 0.19.8 |" in after["docs/install.md"]
    assert read_placements(ours)["linux-64-cuda"]["deepspeed"].origin == "conda"
    about = [f"{f.file}: {f.message}" for f in check_project(ours) if f.file in moved_to | {"recipe/recipe.yaml"}]
    assert [text for text in about if "aarch64" not in text and "osx" not in text] == []  # not locked anew here
    back = relock.lock_project(ours, wanted=wanted, solver=without, progress=Silent())
    assert "deepspeed: from pip: the channels have 0.18.0 to 0.19.0 for Python" in back.pieces_text()
    assert texts(ours) == before

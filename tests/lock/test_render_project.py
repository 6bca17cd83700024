"""`satenv lock --render`: every generated file comes of environment.yml and the locks alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.lock.relock import render_project
from cogvideo_sat_env.spec.variants import read_variants

VARIANTS = read_variants()
RENDERED = sorted(
    {"locks/sizes.json", *(v.environment for v in VARIANTS if not v.is_primary)}
    | {name for v in VARIANTS for name in (v.explicit_lock, v.pip_lock, v.virtual_packages_file)}
)


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def render(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SATENV_PROJECT", str(root))
    return CliRunner().invoke(cli, ["lock", "--render"])


def test_what_is_committed_is_what_comes_of_the_locks(project, monkeypatch):
    committed = files(project)
    for name in RENDERED:
        if name != "locks/sizes.json":  # bytes of packages: in no lock; the others are rendered without them
            (project / name).unlink()
    assert render(project, monkeypatch).exit_code == 0
    assert files(project) == committed
    assert render_project(project) == []


def test_what_was_edited_by_hand_is_written_anew_and_named(project, monkeypatch):
    committed = files(project)
    edited = ["environments/osx-arm64.yml", "locks/conda-linux-64.lock", "locks/pip-linux-64-cpu.txt"]
    for name in edited:
        (project / name).write_text("# by hand\n")
    (project / "locks/sizes.json").write_text((project / "locks/sizes.json").read_text().replace("{", '{"00": 1,', 1))
    answer = render(project, monkeypatch)
    assert answer.exit_code == 0, answer.output
    assert files(project) == committed
    assert all(name in answer.output for name in [*edited, "locks/sizes.json"])
    assert "locks/conda-osx-arm64.lock" not in answer.output


def test_a_changed_bound_is_rendered_and_the_locks_stay(project):
    path = project / "environment.yml"
    text = path.read_text()
    assert "kornia >=0.7.3 " in text
    path.write_text(text.replace("kornia >=0.7.3 ", "kornia >=0.8 "))
    before = files(project)
    changed = render_project(project)
    assert {"environments/linux-64-cpu.yml", "environments/osx-arm64.yml"} <= set(changed)
    assert "kornia >=0.8" in (project / "environments/linux-64-cpu.yml").read_text()
    assert {name for name, content in files(project).items() if content != before[name]} == set(changed)
    assert not {"conda-lock.yml", "locks/conda-linux-64.lock", "locks/linux-64-cpu-conda-lock.yml"} & set(changed)


@pytest.mark.parametrize("name", ["conda-lock.yml", "locks/linux-64-cpu-conda-lock.yml", "environment.yml"])
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_written(project, name):
    (project / "locks/conda-linux-64.lock").write_text("# by hand\n")
    (project / name).write_text("version: [")
    before = files(project)
    with pytest.raises(InputError, match=name.rpartition("/")[2].replace(".", r"\.")):
        render_project(project)
    assert files(project) == before


def test_render_takes_no_other_option(project, monkeypatch):
    monkeypatch.setenv("SATENV_PROJECT", str(project))
    answer = CliRunner().invoke(cli, ["lock", "--render", "--update", "numpy"])
    assert answer.exit_code == 2 and "--render works from the present locks" in answer.output

"""Activation in real shells: what is set, and that all of it is undone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cogvideo_sat_env.install import activation

POSIX = ("sh", "bash", "dash", "zsh")
WATCHED = ("CUDA_HOME", "CPATH", "LIBRARY_PATH", "TORCH_EXTENSIONS_DIR")
SOURCE = {"fish": "source", "tcsh": "source"}


def shells(*names: str) -> list[object]:
    """sh and bash must be there; the others are tested where they are installed."""
    return [
        pytest.param(
            name, marks=pytest.mark.skipif(name not in ("sh", "bash") and not shutil.which(name), reason=f"no {name}")
        )
        for name in names
    ]


@pytest.fixture(params=["env", "with space & quo'te"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A prefix with nvcc and CUDA headers, as conda-forge lays them out, and one variable."""
    root = tmp_path / request.param
    for folder in ("bin", "conda-meta", "targets/x86_64-linux/include", "targets/x86_64-linux/lib/stubs"):
        (root / folder).mkdir(parents=True)
    (root / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (root / "bin" / "nvcc").chmod(0o755)
    activation.install(root, root, activation.load(), {"SAT_VALUE": 'it\'s "1" $HOME'})
    return root


def run(shell: str, script: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    base = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(env or {})}
    flags = {"zsh": ["-f"], "tcsh": ["-f"], "fish": ["--no-config"], "bash": ["--norc"]}.get(shell, [])
    child = subprocess.run([shell, *flags, "-c", script], env=base, capture_output=True, text=True)
    assert not check or (child.returncode, child.stderr) == (0, ""), child.stderr
    return child.stdout if check else child.stdout + child.stderr


def environment(text: str) -> dict[str, str]:
    """The output of `env -0` with NULs made line breaks: no watched value holds one."""
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def scripts(prefix: Path, shell: str) -> tuple[str, str]:
    """The commands that conda runs to activate and to deactivate."""
    ending = shell if shell in ("fish",) else "csh" if shell == "tcsh" else "sh"
    command = SOURCE.get(shell, ".")
    return tuple(
        f'{command} "$CONDA_PREFIX/etc/conda/{step}.d/cogvideo-sat-env.{ending}"' for step in ("activate", "deactivate")
    )


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
def test_activation_sets_what_the_compilers_need(prefix: Path, shell: str, tmp_path: Path) -> None:
    on, _ = scripts(prefix, shell)
    found = environment(run(shell, f"{on}; env -0", {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path)}))
    target = f"{prefix}/targets/x86_64-linux"
    assert found["CUDA_HOME"] == str(prefix) and found["CPATH"] == f"{target}/include"
    assert found["LIBRARY_PATH"] == f"{target}/lib:{target}/lib/stubs"
    extensions = Path(found["TORCH_EXTENSIONS_DIR"])
    assert extensions.parent == tmp_path and extensions.name.startswith(f"torch_extensions-{os.getuid()}-")
    assert extensions.stat().st_mode & 0o777 == 0o700


def test_all_shells_agree_on_the_directory(prefix: Path, tmp_path: Path) -> None:
    names = set()
    for shell in ("sh", "bash", "dash", "zsh", "fish", "tcsh"):
        if shutil.which(shell):
            on, _ = scripts(prefix, shell)
            found = environment(run(shell, f"{on}; env -0", {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path)}))
            names.add(found["TORCH_EXTENSIONS_DIR"])
    assert len(names) == 1


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
@pytest.mark.parametrize("before", ["unset", "set", "empty"])
def test_deactivation_restores_exactly_what_was_there(prefix: Path, shell: str, before: str, tmp_path: Path) -> None:
    env = {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path)}
    if before != "unset":
        env |= dict.fromkeys(WATCHED, "/one:/two with space" if before == "set" else "")
    on, off = scripts(prefix, shell)
    plain = environment(run(shell, "env -0", env))
    after = environment(run(shell, f"{on}; {off}; env -0", env))
    assert after == plain


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
def test_stacked_activation_is_undone_as_well(prefix: Path, shell: str, tmp_path: Path) -> None:
    env = {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path), "CPATH": "/mine"}
    on, off = scripts(prefix, shell)
    plain = environment(run(shell, "env -0", env))
    twice = environment(run(shell, f"{on}; {on}; env -0", env))
    assert twice["CPATH"] == f"{prefix}/targets/x86_64-linux/include:/mine"
    assert environment(run(shell, f"{on}; {on}; {off}; env -0", env)) == plain


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
def test_without_cuda_only_the_extensions_directory_is_set(tmp_path: Path, shell: str) -> None:
    root = tmp_path / "cpu"
    (root / "bin").mkdir(parents=True)
    activation.install(root, root, activation.load(), {})
    on, _ = scripts(root, shell)
    found = environment(run(shell, f"{on}; env -0", {"CONDA_PREFIX": str(root), "TMPDIR": str(tmp_path)}))
    assert "CUDA_HOME" not in found and "CPATH" not in found and "LIBRARY_PATH" not in found
    assert "TORCH_EXTENSIONS_DIR" in found


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
def test_an_extensions_directory_that_is_a_link_is_refused(prefix: Path, shell: str, tmp_path: Path) -> None:
    on, _ = scripts(prefix, shell)
    env = {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path)}
    made = Path(environment(run(shell, f"{on}; env -0", env))["TORCH_EXTENSIONS_DIR"])
    made.rmdir()
    (tmp_path / "trap").mkdir()
    made.symlink_to(tmp_path / "trap")
    said = run(shell, f"{on}; env", env, check=False)
    assert "is not your own directory" in said and "TORCH_EXTENSIONS_DIR=" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to somebody else needs root")
@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh", "fish", "tcsh"))
def test_an_extensions_directory_of_somebody_else_is_refused(prefix: Path, shell: str, tmp_path: Path) -> None:
    on, _ = scripts(prefix, shell)
    env = {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path)}
    made = Path(environment(run(shell, f"{on}; env -0", env))["TORCH_EXTENSIONS_DIR"])
    os.chown(made, 12345, 12345)
    said = run(shell, f"{on}; env", env, check=False)
    assert "is not your own directory" in said and "TORCH_EXTENSIONS_DIR=" not in said


@pytest.mark.parametrize("shell", shells("sh", "bash", "dash", "zsh"))
def test_slurms_own_directory_comes_first(prefix: Path, shell: str, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    on, _ = scripts(prefix, shell)
    env = {"CONDA_PREFIX": str(prefix), "TMPDIR": str(tmp_path), "SLURM_TMPDIR": str(tmp_path / "job")}
    assert environment(run(shell, f"{on}; env -0", env))["TORCH_EXTENSIONS_DIR"].startswith(f"{tmp_path}/job/")


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


@pytest.mark.parametrize("shell", shells(*POSIX))
@pytest.mark.parametrize("strict", ["", "set -eu; "])
def test_the_sourced_script_needs_no_conda_and_undoes_itself(
    prefix: Path, shell: str, strict: str, tmp_path: Path
) -> None:
    script = quoted(prefix / "bin" / "activate-cogvideo-sat")
    env = {"TMPDIR": str(tmp_path)}
    found = environment(run(shell, f"{strict}. {script}; env -0", env))
    assert found["CONDA_PREFIX"] == str(prefix) and found["PATH"].startswith(f"{prefix}/bin:")
    assert found["SAT_VALUE"] == 'it\'s "1" $HOME' and found["CUDA_HOME"] == str(prefix)
    for commands in ("deactivate", f". {script}; deactivate"):
        for before in ({}, {"SAT_VALUE": "mine", "CONDA_PREFIX": "/other", "CPATH": "/c"}):
            plain = environment(run(shell, "env -0", env | before))
            after = environment(run(shell, f"{strict}. {script}; {commands}; env -0", env | before))
            assert after == plain
    bare = env | {"PATH": "/usr/bin:/bin"}  # other tools may have a program of that name
    left = run(shell, f". {script}; deactivate; command -v deactivate || echo none", bare)
    assert left == "none\n"


@pytest.mark.parametrize("shell", shells(*POSIX))
def test_the_sourced_script_refuses_to_be_executed(prefix: Path, shell: str) -> None:
    script = prefix / "bin" / "activate-cogvideo-sat"
    for command in ([str(script)], [shell, str(script)]):
        child = subprocess.run(command, capture_output=True, text=True)
        assert child.returncode == 1 and "must be sourced" in child.stderr


def test_the_sourced_script_says_when_the_environment_was_moved(prefix: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    prefix.rename(moved)
    said = run("sh", f". '{moved}/bin/activate-cogvideo-sat'; echo $?", check=False)
    assert "no environment at" in said and "1\n" in said


def test_variables_stand_where_conda_reads_them(prefix: Path) -> None:
    state = json.loads((prefix / "conda-meta" / "state").read_text())
    assert state["env_vars"] == {"SAT_VALUE": 'it\'s "1" $HOME'}
    assert "SAT_VALUE" not in (prefix / "etc/conda/activate.d/cogvideo-sat-env.sh").read_text()


def test_the_command_that_is_shown_works(prefix: Path, tmp_path: Path) -> None:
    first = activation.activation_command(prefix).splitlines()[0]
    assert run("sh", f"{first}; echo $CONDA_PREFIX", {"TMPDIR": str(tmp_path)}) == f"{prefix}\n"

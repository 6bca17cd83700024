"""Activation in real shells: what is set, and that all of it is undone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
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


@pytest.fixture(params=["env", "sp ace & quo'te [x]*?$HOME!z"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A prefix with nvcc and CUDA headers, as conda-forge lays them out, and one variable."""
    root = tmp_path / request.param
    for folder in ("bin", "conda-meta", "targets/x86_64-linux/include", "targets/x86_64-linux/lib/stubs"):
        (root / folder).mkdir(parents=True)
    (root / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (root / "bin" / "nvcc").chmod(0o755)
    (root / "bin" / "python").symlink_to(sys.executable)
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
    assert "no environment at" in said and "--repair" in said and "1\n" in said


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_copied_environment_does_not_activate_the_one_that_it_was_copied_from(
    prefix: Path, shell: str, tmp_path: Path
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    copy, link = tmp_path / "copy", tmp_path / "link"
    shutil.copytree(prefix, copy, symlinks=True)
    said = run(shell, f". '{copy}/bin/activate-cogvideo-sat'; echo $? ${{CONDA_PREFIX-none}}", check=False)
    assert f"would activate {prefix}" in said and "--repair" in said and "1 none\n" in said
    link.symlink_to(prefix / "bin" / "activate-cogvideo-sat")
    assert run(shell, f". '{link}'; echo $CONDA_PREFIX").endswith(f"{prefix}\n")


ALL = ("sh", "bash", "dash", "zsh", "fish", "tcsh")
EXPORT = {"fish": "set -gx {0} {1}", "tcsh": "setenv {0} {1}"}


def activate(prefix: Path, shell: str) -> str:
    """The command that activates without conda, as the user types it."""
    script = prefix / "bin" / "activate-cogvideo-sat"
    if shell == "fish":
        return f"source {activation._quote_fish(str(script))}.fish"
    return f"source {activation._quote_csh(str(script))}.csh" if shell == "tcsh" else f". {quoted(script)}"


def export(shell: str, name: str, value: str) -> str:
    return EXPORT.get(shell, "export {0}={1}").format(name, value)


def lines(tmp_path: Path, shell: str, *commands: str, **env: str) -> str:
    """Run the commands as a script's lines: what csh expands on one line is not what it has set there."""
    script = tmp_path / "script"
    script.write_text("\n".join(commands) + "\n")
    source = "source" if shell in ("fish", "tcsh") else "."
    return run(shell, f"{source} {script}", {"TMPDIR": str(tmp_path), **env})


@pytest.mark.slow
@pytest.mark.parametrize("shell", shells("fish", "tcsh"))
def test_csh_and_fish_need_no_conda_either(prefix: Path, shell: str, tmp_path: Path) -> None:
    before = {"SAT_VALUE": 'it\'s "mine" $x', "CONDA_PREFIX": "/o t", "CPATH": "/c:/d e"}
    on = activate(prefix, shell)
    found = environment(lines(tmp_path, shell, on, "env -0", **before))
    posix = environment(lines(tmp_path, "sh", activate(prefix, "sh"), "env -0", **before))
    for name in ("CONDA_PREFIX", "PATH", "SAT_VALUE", *WATCHED):
        assert found[name] == posix[name], name
    plain = environment(lines(tmp_path, shell, "env -0", **before))
    assert environment(lines(tmp_path, shell, on, "deactivate", "env -0", **before)) == plain
    assert environment(lines(tmp_path, shell, on, on, "deactivate", "env -0", **before)) == plain


@pytest.mark.parametrize("shell", shells(*ALL))
def test_what_the_user_adds_while_it_is_active_survives(prefix: Path, shell: str, tmp_path: Path) -> None:
    if shell == "fish":
        add = ["set -gx PATH /first $PATH /last", "set -gx CPATH /first:(string join : -- $CPATH)"]
    elif shell == "tcsh":
        add = ['setenv PATH "/first:${PATH}:/last"', 'setenv CPATH "/first:${CPATH}"']
    else:
        add = ['export PATH="/first:${PATH}:/last" CPATH="/first:${CPATH}"']
    add += [export(shell, "CUDA_HOME", "/my/cuda"), export(shell, "MINE", "1"), export(shell, "SAT_VALUE", "new")]
    before = {"CPATH": "/c:/d", "PATH": f"/usr/bin:/bin:{prefix}/sbin"}
    found = environment(lines(tmp_path, shell, activate(prefix, shell), *add, "deactivate", "env -0", **before))
    assert found["PATH"] == f"/first:{before['PATH']}:/last" and found["CPATH"] == "/first:/c:/d"
    assert (found["CUDA_HOME"], found["MINE"], found["SAT_VALUE"]) == ("/my/cuda", "1", "new")
    assert not [name for name in found if "COGVIDEO" in name] and "CONDA_PREFIX" not in found


@pytest.mark.parametrize(
    ("outer", "inner"), [("bash", "sh"), ("sh", "zsh"), ("sh", "fish"), ("tcsh", "sh"), ("fish", "bash")]
)
def test_a_shell_started_by_an_activated_one_is_left_by_one_deactivate(
    prefix: Path, outer: str, inner: str, tmp_path: Path
) -> None:
    """A job script that activates, submitted from an activated shell."""
    if not (shutil.which(outer) and shutil.which(inner)):
        pytest.skip(f"no {outer} or {inner}")
    before = {"PATH": "/usr/bin:/bin", "CPATH": "/c", "USER": "me"}
    plain = environment(lines(tmp_path, "sh", "env -0", **before))
    (tmp_path / "job").write_text(f"{activate(prefix, inner)}\nprintenv PATH\ndeactivate\nenv -0\n")
    start = f"{shutil.which(inner)} {'-f ' if inner in ('zsh', 'tcsh') else ''}{tmp_path / 'job'}"
    path, _, rest = lines(tmp_path, outer, activate(prefix, outer), start, **before).partition("\n")
    assert path == f"{prefix}/bin:/usr/bin:/bin"
    found = environment(rest)
    watched = ("PATH", "CONDA_PREFIX", "SAT_VALUE", *WATCHED)
    assert [found.get(name) for name in watched] == [plain.get(name) for name in watched]
    assert not [name for name in found if "COGVIDEO" in name]


@pytest.mark.parametrize(
    ("shell", "mode"),
    [
        *[(shell, "set -f") for shell in ("sh", "bash", "dash")], ("zsh", "setopt noglob"), ("zsh", "setopt nullglob"),
        ("zsh", "setopt ksh_arrays sh_word_split no_unset"), ("zsh", "emulate sh"), ("bash", "set -o posix"),
        ("bash", "set -euo pipefail"), ("bash", "set -euo pipefail; shopt -s failglob; set -f"), ("bash", "IFS=/"),
        ("zsh", "set -euo pipefail"), ("dash", "set -eu"), ("sh", "set -a"), ("bash", "alias ls='ls -F --color'; shopt -s expand_aliases"),
        ("sh", "set -- one 'two three'"), ("bash", "shopt -s nocasematch extglob"), ("sh", "cd /"), ("sh", "IFS="),
    ],
)  # fmt: skip
def test_activation_does_its_work_in_odd_modes_of_a_shell(prefix: Path, shell: str, mode: str, tmp_path: Path) -> None:
    if shell not in ("sh", "bash") and not shutil.which(shell):
        pytest.skip(f"no {shell}")
    on = activate(prefix, shell)
    strict = prefix / "etc/conda/activate.d/a-foreign.sh"
    strict.write_text('false\nFOREIGN="$NOT_SET_ANYWHERE"\nexport FOREIGN\n')
    state = "case $- in *f*) echo f ;; esac; case $- in *e*) echo e ;; esac; case $- in *u*) echo u ;; esac"
    for call in (on, f"go() {{ {on}; }}; go", f"{on} -v 'with arguments'", f"{on}; deactivate; {on}"):
        if (shell == "dash" and "-v" in call) or (call.startswith("go") and "set -- " in mode):
            continue
        found = environment(run(shell, f"{mode}; {call}; env -0", {"TMPDIR": str(tmp_path)}))
        assert found["CUDA_HOME"] == str(prefix) and found["CPATH"] and found["TORCH_EXTENSIONS_DIR"], call
        assert found["FOREIGN"] == ""
    kept = run(shell, f'{mode}; {on}; deactivate; {state}; echo "$#:$*"', {"TMPDIR": str(tmp_path)})
    assert kept == run(shell, f'{mode}; {state}; echo "$#:$*"', {"TMPDIR": str(tmp_path)})


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="becoming another user needs root")
@pytest.mark.parametrize("shell", shells(*ALL))
def test_a_user_without_a_passwd_entry_gets_a_name(shell: str, tmp_path: Path) -> None:
    root = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders are closed to others
    try:
        root.chmod(0o755)
        for folder in ("bin", "conda-meta"):
            (root / folder).mkdir()
        (root / "bin" / "python").symlink_to(shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable)
        activation.install(root, root, activation.load(), {})
        scratch = root / "tmp"
        scratch.mkdir()
        scratch.chmod(0o1777)
        script = root / "script"
        for name, value in (("USER", ""), ("LOGNAME", "me")):
            unset = [] if shell != "tcsh" else ["unsetenv USER", "unsetenv LOGNAME"]  # tcsh sets them from the number
            given = [] if not value else [export(shell, name, value)]
            commands = [*unset, *given, activate(root, shell), "echo now:`printenv USER`" if shell != "fish" else
                        "echo \"now:$USER\"", "deactivate", "printenv USER; echo gone"]  # fmt: skip
            script.write_text("\n".join(commands) + "\n")
            child = subprocess.run(
                ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "env", "-i", "PATH=/usr/bin:/bin",
                 f"HOME={scratch}", f"TMPDIR={scratch}", shell, *(["-f"] if shell in ("tcsh", "zsh") else []), str(script)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert child.stdout == f"now:{'' if value else 'uid54321'}\ngone\n", child.stderr
    finally:
        shutil.rmtree(root)


def test_variables_stand_where_conda_reads_them(prefix: Path) -> None:
    state = json.loads((prefix / "conda-meta" / "state").read_text())
    assert state["env_vars"] == {"SAT_VALUE": 'it\'s "1" $HOME'}
    assert "SAT_VALUE" not in (prefix / "etc/conda/activate.d/cogvideo-sat-env.sh").read_text()


def test_the_command_that_is_shown_works(prefix: Path, tmp_path: Path) -> None:
    first = activation.activation_command(prefix).splitlines()[0]
    assert run("sh", f"{first}; echo $CONDA_PREFIX", {"TMPDIR": str(tmp_path)}) == f"{prefix}\n"

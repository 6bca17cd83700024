"""The captured environment: what `conda activate` would give, without what the user's shell has."""

from __future__ import annotations

import pytest

from cogvideo_sat_env.doctor import activated_env

BASE = {"PATH": "/usr/bin:/bin", "HOME": "/home/someone", "EDITOR": "ed"}


def capture(prefix, tmp_path, **changes):
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return activated_env.capture(prefix.root, work, BASE | changes)


def test_declared_variables_merge_as_in_conda(prefix, tmp_path):
    prefix.file("etc/conda/env_vars.d/a.json", '{"A": "package a", "B": "package a", "C": "c", "D": "d"}')
    prefix.file("etc/conda/env_vars.d/b.json", '{"B": "package b"}')
    prefix.file("conda-meta/state", '{"env_vars": {"C": "state", "D": "***unset***"}}')
    found = capture(prefix, tmp_path, D="the user's")
    assert {name: found.env.get(name) for name in "ABCD"} == {
        "A": "package a",
        "B": "package b",
        "C": "state",
        "D": None,
    }
    assert found.sets == {"A": "package a", "B": "package b", "C": "state"} and not found.problems


def test_scripts_run_in_order_in_one_shell_and_see_what_is_declared(prefix, tmp_path):
    prefix.file("etc/conda/env_vars.d/a.json", '{"A": "1"}')
    prefix.file("etc/conda/activate.d/10-b.sh", 'export B="$A$CONDA_PREFIX"; C=local\n')
    prefix.file("etc/conda/activate.d/20-c.sh", 'export D="$B:$C"\n[ -n "$NOTHING" ] && export E=1\n')
    found = capture(prefix, tmp_path)
    root = str(prefix.root)
    assert found.env["D"] == f"1{root}:local" and "C" not in found.env and "E" not in found.env
    assert found.scripts == ("10-b.sh", "20-c.sh") and not found.problems
    assert found.env["PATH"] == f"{root}/bin:/usr/bin:/bin" and found.env["EDITOR"] == "ed"


def test_what_the_shell_sets_already_still_counts_as_set_by_activation(prefix, tmp_path):
    """The doctor is mostly run inside the activated environment."""
    prefix.file("etc/conda/activate.d/a.sh", "export A=1\n")
    assert capture(prefix, tmp_path, A="1").sets == {"A": "1"}


def test_what_only_the_shell_sets_is_not_set_by_activation(prefix, tmp_path):
    found = capture(prefix, tmp_path, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert found.sets == {} and found.env["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


@pytest.mark.parametrize("name", ["LOCAL_RANK", "MASTER_ADDR", "__PYVENV_LAUNCHER__"])
def test_variables_that_would_falsify_probes_are_removed(prefix, tmp_path, name):
    assert name not in capture(prefix, tmp_path, **{name: "x"}).env


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONWARNINGS", "PYTHONNOUSERSITE", "VIRTUAL_ENV", "CXX"])
def test_variables_that_a_job_would_have_stay(prefix, tmp_path, name):
    assert capture(prefix, tmp_path, **{name: "x"}).env[name] == "x"


@pytest.mark.parametrize("noise", [{"LD_PRELOAD": "/opt/site/lib64/libtrack_init.so"}, {"LC_ALL": "xx_YY.UTF-8"}])
def test_what_the_loader_or_the_shell_print_by_themselves_is_no_problem_of_the_scripts(prefix, tmp_path, noise):
    prefix.file("etc/conda/activate.d/a.sh", "export A=$(id -u)\ncat /dev/null\n")
    found = capture(prefix, tmp_path, **noise)
    assert found.problems == () and "A" in found.sets
    prefix.file("etc/conda/activate.d/b.sh", "echo 'no such module' >&2\n")
    assert capture(prefix, tmp_path, **noise).problems == ("the activation scripts print: no such module",)


def test_a_script_that_ends_the_shell_is_a_problem(prefix, tmp_path):
    prefix.file("etc/conda/activate.d/a.sh", "exit 4\n")
    found = capture(prefix, tmp_path)
    assert found.problems == ("the activation scripts end the shell (exit code 4)",)
    assert found.env["CONDA_PREFIX"] == str(prefix.root)


def test_a_script_that_hangs_is_a_problem(prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(activated_env, "_LIMIT", 0.5)
    prefix.file("etc/conda/activate.d/a.sh", "sleep 20\n")
    (problem,) = capture(prefix, tmp_path).problems
    assert "don't end within" in problem and "a.sh" in problem


def test_a_script_that_complains_is_a_problem(prefix, tmp_path):
    prefix.file("etc/conda/activate.d/a.sh", "no-such-program-anywhere\n")
    (problem,) = capture(prefix, tmp_path).problems
    assert "no-such-program-anywhere" in problem


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("etc/conda/env_vars.d/a.json", "{", "expected a JSON object"),
        ("etc/conda/env_vars.d/a.json", "[]", "expected a JSON object"),
        ("etc/conda/env_vars.d/a.json", '{"A": 1}', "the value of A is not a text"),
        ("conda-meta/state", '{"env_vars": []}', None),
        ("conda-meta/state", '{"env_vars": [1]}', "expected an object of variables"),
    ],
)
def test_a_broken_declaration_is_named(prefix, tmp_path, path, text, words):
    prefix.file(path, text)
    problems = capture(prefix, tmp_path).problems
    assert (problems == ()) if words is None else (len(problems) == 1 and words in problems[0] and path in problems[0])


def test_activation_that_lacks_a_variable_of_the_ledger_is_told(prefix):
    result = prefix.check("identity.activation", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    assert result.status == "warning" and "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in result.finding
    prefix.file("etc/conda/env_vars.d/a.json", '{"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}')
    assert prefix.check("identity.activation").status == "passed"

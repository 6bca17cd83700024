"""What every command's options share: paths as users write them, the version, completion, help by example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cogvideo_sat_env.base import paths
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.cli import cli
from cogvideo_sat_env.cli.options import UserPath
from cogvideo_sat_env.cli.version import version_line

PROJECT = Path(__file__).parents[2]


def every_command(group: click.Group = cli, path: str = "satenv"):
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}")


def test_every_path_option_is_one_that_knows_the_home() -> None:
    params = [(name, p) for name, command in every_command() for p in command.params]
    assert len([p for _, p in params if isinstance(p.type, UserPath)]) > 20
    assert not [
        f"{name} {p.name}" for name, p in params if isinstance(p.type, click.Path) and not isinstance(p.type, UserPath)
    ]


@pytest.mark.parametrize("text", ["~", "~/envs/sat", "~root/x"])
def test_a_tilde_that_the_shell_left_is_the_home(text: str) -> None:
    assert UserPath().convert(text, None, None) == Path(os.path.expanduser(text))


@pytest.mark.fault("tilde", "environment", "a `~` that the shell left means the home; an empty path is a usage error")
def test_a_prefix_of_a_tilde_makes_no_folder_of_that_name(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path / "home"), "SATENV_ENVS": "~/envs"}
    (tmp_path / "home" / "x").mkdir(parents=True)
    for arguments, shown in ((["--prefix=~/x"], "home/x"), (["-n", "y"], "home/envs/y")):
        run = subprocess.run([str(PROJECT / "scripts" / "satenv"), "doctor", *arguments], cwd=tmp_path, capture_output=True,
                             text=True, check=False, env={**env, "SATENV_CACHE": str(paths.cache_dir())})  # fmt: skip
        assert run.returncode == 6 and f"{tmp_path}/{shown}" in run.stderr, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize("arguments", [["create", "-p", ""], ["doctor", "-p", ""], ["create", "--lock", ""],
                                       ["mirror", ""], ["doctor", "-p", "~no-such-user-here/x"]])  # fmt: skip
def test_a_path_that_cannot_be_meant_is_a_usage_error(arguments: list[str]) -> None:
    run = CliRunner().invoke(cli, arguments)
    assert run.exit_code == 2 and re.search("empty path|no home directory", run.output)


@pytest.mark.parametrize("name", ["SATENV_CACHE", "SATENV_ENVS", "SATENV_PROJECT", "XDG_CACHE_HOME"])
def test_variables_may_name_the_home_too(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SATENV_CACHE", raising=False)
    monkeypatch.setenv(name, "~/there")
    if name == "SATENV_PROJECT":
        with pytest.raises(InputError, match=f"{tmp_path}/there/environment.yml"):
            paths.project_root()
    else:
        assert tmp_path / "there" in [*paths.cache_dir().parents, paths.cache_dir(), paths.envs_dir()]


@pytest.mark.parametrize(("name", "command"), [pytest.param(n, c, id=n) for n, c in every_command()])
def test_every_help_teaches_by_example_and_names_nothing_private(name: str, command: click.Command) -> None:
    context = click.Context(
        command, info_name=name.partition(" ")[2], parent=cli.make_context("satenv", [], resilient_parsing=True)
    )
    text = command.get_help(context)
    assert "Examples:" in text and command.help
    assert "../shared" not in text and not re.search(r"\b(mend|mended|crew)\b", text)


def test_the_version_names_commit_and_day_of_the_lock(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], cwd=tmp_path, check=True,
                       capture_output=True, env={**os.environ, "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"})  # fmt: skip

    assert re.fullmatch(r"satenv \d+\.\d+\.\d+", version_line(tmp_path))
    git("init", "-q")
    (tmp_path / "conda-lock.yml").write_text("x")
    git("add", "-A")
    git("commit", "-qm", "x")
    assert re.fullmatch(r"satenv \S+ \(commit [0-9a-f]{7,}, lock of 2026-01-02\)", version_line(tmp_path))
    (tmp_path / "conda-lock.yml").write_text("y")
    assert "-dirty, lock of" in version_line(tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    script = CliRunner().invoke(cli, ["completion", shell]).output
    check = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
    assert "_SATENV_COMPLETE" in script and (check.returncode, check.stderr) == (0, "")


def test_completion_offers_the_options_of_a_command() -> None:
    asked = {"_SATENV_COMPLETE": "bash_complete", "COMP_WORDS": "satenv doctor --le", "COMP_CWORD": "2"}
    run = subprocess.run([str(PROJECT / "scripts" / "satenv")], capture_output=True, text=True, check=False,
                         env={**os.environ, **asked})  # fmt: skip
    assert run.stdout == "plain,--level\n"

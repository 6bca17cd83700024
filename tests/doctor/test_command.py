"""The doctor's command line, in the project and inside an environment, and what the package needs to be imported."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.cli.doctor import doctor as click_command
from cogvideo_sat_env.doctor import command_options
from cogvideo_sat_env.doctor.command import DoctorOptions, read_options
from cogvideo_sat_env.doctor.find_prefix import find_prefix, named_prefix
from cogvideo_sat_env.doctor.runner import Doctor

SOURCE = Path(__file__).parents[2] / "src"

ONLY_STANDARD = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("cogvideo_sat_env", "yaml", "_yaml"):
            raise ImportError(f"the doctor may not need {name}")
sys.meta_path.insert(0, Block())
import cogvideo_sat_env.doctor.__main__
from cogvideo_sat_env import doctor
assert "cogvideo_sat_env.cli" not in sys.modules
print(len(doctor.list_checks()))
"""


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **variables}
    return subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env.doctor", *arguments], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip


def test_the_package_needs_only_the_standard_library_and_yaml():
    done = subprocess.run(
        [sys.executable, "-c", ONLY_STANDARD], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


def test_the_list_names_every_check():
    done = command("--list")
    assert done.returncode == 0 and "training.zero2" in done.stdout and "quick" in done.stdout
    assert "data.webdataset" in {item["id"] for item in json.loads(command("--list", "--json").stdout)}


def test_json_goes_to_standard_output_with_the_exit_code_of_the_result(prefix):
    done = command("-p", str(prefix.root), "--only", "identity.distribution", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["ok"] is False and report["prefix"] == str(prefix.root)
    assert report["results"][0]["finding"] == "SwissArmyTransformer is not installed"


def test_text_is_the_default(prefix, tmp_path):
    extensions = str(tmp_path / "extensions")  # in the machine's own a compiler may be at work
    done = command("-p", str(prefix.root), "--only", "toolchain.extensions-dir", TORCH_EXTENSIONS_DIR=extensions)
    assert done.returncode == 0 and "1 passed, 0 failed" in done.stdout and "\x1b" not in done.stdout


def test_the_active_environment_is_the_default(prefix):
    done = command("--only", "toolchain.extensions-dir", CONDA_PREFIX=str(prefix.root))
    assert f"Environment {prefix.root}, level full" in done.stdout.replace("\n", " ")


def test_wrong_usage_ends_with_2_an_unknown_check_with_3_and_a_wrong_prefix_with_6(tmp_path):
    assert command("--levle", "quick").returncode == 2
    done = command("--only", "video.decrod")
    assert done.returncode == 3 and "no check is called 'video.decrod'" in done.stderr
    done = command("-p", str(tmp_path))
    assert done.returncode == 6 and "expected the Python of an environment" in done.stderr
    assert "satenv create" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(PrefixError, match="no environment there") as caught:  # of the project's command line
        find_prefix(tmp_path, None, named_prefix)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("program", ["cogvideo_sat_env doctor", "cogvideo_sat_env.doctor"])
def test_closed_standard_streams_change_nothing(prefix, tmp_path, program, closed):
    """As cron and daemons start programs; a trace on the way would end with 1: "this environment is broken"."""
    target = tmp_path / "report.xml"
    script = f'exec "$0" -m {program} -p "$1" --only toolchain.extensions-dir --junit "$2" {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, str(prefix.root), str(target)], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert 'name="toolchain.extensions-dir"' in target.read_text()


def test_both_command_lines_have_the_same_options():
    """Click parses for the project, argparse inside an environment, where only the standard library is sure."""
    parser = argparse.ArgumentParser()
    command_options.add_to(parser)
    inside = {
        tuple(action.option_strings): (action.dest, action.default if action.default else None, bool(action.nargs == 0))
        for action in parser._actions if action.dest != "help"
    }  # fmt: skip
    outside = {
        tuple(option.opts): (option.name, option.default if option.default else None, bool(option.is_flag))
        for option in click_command.params
    }  # fmt: skip
    assert {name: (dest, flag) for name, (dest, _, flag) in inside.items()} == {
        name: (dest, flag) for name, (dest, _, flag) in outside.items()
    }
    for name in (("--level",), ("--patience",)):
        assert inside[name] == outside[name]


def test_a_command_can_be_named_or_left_out():
    assert command("doctor", "--list").stdout == command("--list").stdout
    done = command("version")
    assert (done.returncode, done.stdout) == (0, f"cogvideo-sat-env {__version__}\n")
    assert "exit codes:" in command("--help").stdout


def test_the_list_tells_the_time_limits():
    items = {item["id"]: item for item in json.loads(command("--list", "--json").stdout)}
    assert items["identity.floors"]["limit"] == 60.0 and items["identity.floors"]["level"] == "quick"


def test_junit_is_written_beside_the_report(prefix, tmp_path):
    done = command(
        "-p", str(prefix.root), "--only", "toolchain.extensions-dir", "--junit", str(tmp_path / "doctor.xml")
    )
    assert done.returncode == 0 and 'name="toolchain.extensions-dir"' in (tmp_path / "doctor.xml").read_text()


@pytest.mark.parametrize("place", ["missing/doctor.xml", "."])
def test_a_junit_report_that_cannot_be_written_is_told_before_anything_runs(prefix, tmp_path, place):
    done = command("-p", str(prefix.root), "--only", "toolchain.extensions-dir", "--junit", str(tmp_path / place))
    assert done.returncode == 3 and "JUnit" in done.stderr and not done.stdout


def test_a_folder_that_the_output_cannot_spell_is_no_fault(prefix, tmp_path):
    link = tmp_path / "präfix-\udcff"
    link.symlink_to(prefix.root)
    done = command("-p", str(link), "--only", "toolchain.extensions-dir", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and r"pr\xe4fix-\udcff" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("program", ["cogvideo_sat_env.doctor", "cogvideo_sat_env"])
def test_a_reader_that_has_seen_enough_changes_no_exit_code(prefix, program):
    (prefix.root / "bin" / "python").write_text("#!/no/such/interpreter\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", program, "doctor", "-p", str(prefix.root), "--only", "identity.floors"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_temporary_files_that_are_cut_off_are_an_error_in_words(prefix):
    prefix.file("etc/conda/activate.d/a.sh", "export A=1\n")
    arguments = [sys.executable, "-m", "cogvideo_sat_env.doctor", "-p", str(prefix.root), "--only", "hardware.limits"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "FILLER": "x" * 2000},
    )  # fmt: skip
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr
    assert "temporary files" in done.stderr and "ulimit -f" in done.stderr


def test_strict_makes_a_warning_fail(prefix):
    arguments = ("-p", str(prefix.root), "--only", "identity.pollution")  # `command` sets PYTHONPATH
    assert command(*arguments).returncode == 0 and command(*arguments, "--strict").returncode == 1


def test_settings_come_from_the_file_and_switches_win(tmp_path):
    config = tmp_path / "doctor.json"
    config.write_text('{"security.advisories": "/from/the/file", "identity.seconds": 10}')
    (tmp_path / "osv").mkdir()
    found = read_options(DoctorOptions(config=config, advisories=tmp_path / "osv"))
    assert found == {"security.advisories": str(tmp_path / "osv"), "identity.seconds": 10}


@pytest.mark.parametrize(
    "content",
    [
        None, "{", "[]", '{"secrity.advisories": "x"}', '{"patience": 3}', '{"identity.secs": 3}', '{"security.accepted": 5}',
        '{"identity.seconds": "x"}', '{"identity.seconds": true}', '{"identity.seconds": NaN}', '{"video.seconds": 0}',
        '{"security.advisories": null}', '{"security.accepted": [1]}',
    ],
    ids=repr,
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tmp_path, content):
    config = tmp_path / "doctor.json"
    if content is not None:
        config.write_text(content)
    with pytest.raises(InputError, match="doctor.json"):
        read_options(DoctorOptions(config=config))


@pytest.mark.parametrize(
    "arguments", [("--advisories", "/no/such"), ("--patience", "0"), ("--patience", "nan"), ("-p", ".", "-n", "x")]
)
def test_bad_values_end_with_a_message_and_no_trace(prefix, arguments):
    done = command(*arguments, "--only", "identity.floors", CONDA_PREFIX=str(prefix.root))
    assert done.returncode in (3, 6) and "Traceback" not in done.stderr and done.stderr.count("\n") >= 1


def test_an_error_is_json_too_when_asked(tmp_path):
    done = command("-p", str(tmp_path), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == answer["exit_code"] == 6 and "expected the Python of an environment" in answer["error"]


def test_a_fault_of_the_program_is_told_from_a_failed_check(prefix):
    """A check that fails ends with 1; so does Python, after an exception that nobody caught."""
    code = "import sys; from cogvideo_sat_env.doctor import __main__, command; command.run = None; sys.exit(__main__.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", str(prefix.root)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert done.returncode == 70 and "please report it" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_batch_system_or_a_lost_terminal_that_ends_the_doctor_leaves_no_process(prefix, tmp_path, number, code):
    """Slurm sends SIGTERM, then kills what is left: the checks have sessions of their own."""
    prefix.module(
        "torch", f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cogvideo_sat_env.doctor", "-p", str(prefix.root), "--only", "imports.together"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_python_that_leads_into_anothers_home_is_named_as_such():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to others
        home, prefix = Path(name, "home"), Path(name, "env")
        for folder in (home, prefix / "bin"):
            folder.mkdir(parents=True)
        Path(name).chmod(0o755)
        home.chmod(0o700)
        (home / "python3").touch(mode=0o755)
        (prefix / "bin" / "python").symlink_to(home / "python3")
        os.seteuid(54321)
        try:
            with pytest.raises(PrefixError) as refused:
                Doctor(prefix)
        finally:
            os.seteuid(0)
        assert f"leads to {home}/python3, where this user may not look" in str(refused.value)

"""However a command ends, there is one message and an exit code; a state of the machine never has a traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.base import machine
from cogvideo_sat_env.base.errors import EXIT_CODES, InputError, SatenvError

SOURCE = Path(__file__).parents[2] / "src"
HEAD = "import sys, os; sys.path.insert(0, sys.argv.pop(1)); from cogvideo_sat_env.base.run import run\n"


def program(body: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run `body`, the inside of a command, as a program of its own."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    code = f"{HEAD}def command():\n{indented}sys.exit(run('satenv', command))"
    options = {"capture_output": True, "text": True, "check": False, **options}
    return subprocess.run([sys.executable, "-I", "-c", code, str(SOURCE), *arguments], **options)


@pytest.mark.fault("machine-states", "error", "names the place and the state in one line, with what to do; exit 9")
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('/nonexistent/file')", "/nonexistent/file: No such file or directory"),
        ("open('/dev/full', 'w', buffering=1).write('x' * 9999)", "No space left on device"),
        ("raise OSError(122, 'Disk quota exceeded', '/home/x')", "/home/x: Disk quota exceeded"),
        ("raise OSError(5, 'Input/output error')", "Input/output error"),
        ("os.rename('/proc/1/status', '/proc/x')", "/proc/1/status -> /proc/x"),
        ("raise MemoryError", "out of memory"),
        ('raise RuntimeError("can\'t start new thread")', "no new thread"),
        ("raise ImportError('libx.so: failed to map segment from shared object')", "failed to map segment"),
        ("raise Exception('failed to write: No space left on device (os error 28)')", "No space left on device"),
        ("raise Exception('x') from OSError(24, 'Too many open files')", "Too many open files"),
        ("'a\\udcff'.encode()", "isn't UTF-8"),
        ("import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d); os.getcwd()", "working directory is gone"),
    ],
)
def test_a_state_of_the_machine_is_reported_in_words(body: str, words: str) -> None:
    run = program(body)
    assert run.returncode == 9 and words in run.stderr and "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) == 2 and run.stdout == ""
    assert f'"exit_code": {9}' in program(body, "--json").stdout


@pytest.mark.parametrize("body", ["1 / 0", "{}['x']", "raise OSError(9, 'Bad file descriptor')", "sys.exit('words')"])
def test_a_fault_of_the_program_has_its_own_code(body: str) -> None:
    run = program(body)
    assert run.returncode == 70 and ("please report" in run.stderr) == ("exit" not in body)


def test_every_exit_code_is_explained_and_one_is_no_errors() -> None:
    assert SatenvError.exit_code == 9 and not [c for c in SatenvError.__subclasses__() if c.exit_code == 1]
    assert {SatenvError.exit_code, *(c.exit_code for c in SatenvError.__subclasses__()), 70, 130} <= set(EXIT_CODES)


def test_an_error_that_only_hides_a_state_of_the_machine_keeps_its_own_words() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise InputError("lock.yml: line 3") from error
    except InputError as error:
        assert machine.in_words(error) is error


@pytest.mark.fault("full-output", "environment", "the work is done; says that the report is lost; exit 9")
def test_a_full_standard_output_is_reported_after_the_work_is_done(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        run = program(f"print('x' * 99999); open({str(tmp_path / 'done')!r}, 'w').close()", stdout=full,
                      stderr=subprocess.PIPE, capture_output=False)  # fmt: skip
    assert run.returncode == 9 and (tmp_path / "done").exists()
    assert "standard output can't be written: No space left on device" in run.stderr


def test_no_is_still_no_when_standard_output_is_full() -> None:
    with open("/dev/full", "w") as full:
        assert program("print('x'); return 1", stdout=full, stderr=full, capture_output=False).returncode == 1


@pytest.mark.parametrize("code", [0, 1])
def test_a_reader_who_has_seen_enough_changes_no_exit_code(code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        run = program(f"print('x' * 99999); return {code}", stdout=closed, stderr=subprocess.PIPE, capture_output=False)
    assert (run.returncode, run.stderr) == (code, "")


def test_a_broken_pipe_to_a_child_is_not_taken_for_a_reader_who_has_seen_enough() -> None:
    run = program("r, w = os.pipe(); os.close(r); os.write(w, b'x')")
    assert run.returncode == 70 and "Broken pipe" in run.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_closed_and_full_streams_end_no_command(closed: str, tmp_path: Path) -> None:
    code = f"{HEAD}sys.exit(run('x', lambda: print('out') or print('err', file=sys.stderr) or 3))"
    child = subprocess.run(["sh", "-c", f'"$0" -I -c "$1" "$2" {closed}', sys.executable, code, str(SOURCE)],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert child.returncode == 3 and "Traceback" not in child.stderr


def test_a_terminal_that_another_process_made_non_blocking_gets_every_word() -> None:
    body = "import fcntl; fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK); print('x' * 500000)"
    run = program(body)
    assert run.returncode == 0 and len(run.stdout) == 500001


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_encoding_lacks_is_printed_as_an_escape(encoding: str) -> None:
    code = f"{HEAD}sys.stdout.reconfigure(encoding={encoding!r})\nsys.exit(run('x', lambda: print('…é\\udcff')))"
    run = subprocess.run([sys.executable, "-I", "-c", code, str(SOURCE)], capture_output=True, check=False)
    assert run.returncode == 0 and b"\\udcff" in run.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGXCPU, 9)]
)
def test_a_signal_cleans_up_and_has_its_code(number: int, code: int) -> None:
    run = program(
        f"try:\n    os.kill(os.getpid(), {int(number)}); import time; time.sleep(9)\nfinally:\n    print('clean')"
    )
    assert run.returncode == code and run.stdout == "clean\n" and "Traceback" not in run.stderr


def test_signals_that_are_ignored_stay_ignored() -> None:
    code = f"{HEAD}import signal\nsignal.signal(1, signal.SIG_IGN); signal.signal(2, signal.SIG_IGN)\n"
    code += "sys.exit(run('x', lambda: os.kill(os.getpid(), 1) or os.kill(os.getpid(), 2)))"
    assert subprocess.run([sys.executable, "-I", "-c", code, str(SOURCE)], check=False).returncode == 0


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    body = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9));"
        f" open({str(tmp_path / 'f')!r}, 'wb', 0).write(b'x' * 99) and open({str(tmp_path / 'f')!r}, 'ab', 0).write(b'x')"
    )
    run = program(body)
    assert run.returncode == 9 and "File too large" in run.stderr and "ulimit -f" in run.stderr


def test_a_limit_behind_an_error_decides_the_remedy() -> None:
    body = (
        "from cogvideo_sat_env.base.errors import PrefixError\n"
        "try:\n    raise OSError(24, 'Too many open files')\n"
        "except OSError as error:\n    raise PrefixError('/e: not deleted', 'delete it by hand') from error"
    )
    run = program(body)
    assert run.returncode == 9 and "/e: not deleted" in run.stderr
    assert "ulimit -n" in run.stderr and "by hand" not in run.stderr


@pytest.mark.parametrize(
    ("code", "output", "words"),
    [
        (-6, "memory allocation of 1 bytes failed", "memory"),
        (1, "Traceback…\nMemoryError", "MemoryError"),
        (-9, "", "SIGKILL"),
        (-25, "", "SIGXFSZ"),
        (1, "write: No space left on device (os error 28)", "No space left"),
        (1, "ValueError: x", None),
        (-11, "", None),
    ],
)
def test_the_death_of_a_child_by_the_machine_is_known(code: int, output: str, words: str | None) -> None:
    found = machine.of_a_death(code, output)
    assert (found is None) if words is None else (words in found.message and found.remedy)

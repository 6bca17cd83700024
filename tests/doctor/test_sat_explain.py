"""doctor --explain: a log of any size and encoding, and which known failures are in it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.sat import explain as module
from cogvideo_sat_env.doctor.sat.explain import explain, explain_file
from cogvideo_sat_env.doctor.symptoms import read_symptoms
from cogvideo_sat_env.spec.breakage import read_ledger

SOURCE = Path(__file__).parents[2] / "src"
ERROR = "Error building extension 'fused_ema_adam'"
LOG = f"""\
+ srun python train_video.py
[rank1]: Traceback (most recent call last):
[rank1]:   File "train_video.py", line 226, in <module>
[rank1]: RuntimeError: {ERROR}
"""


def explained(content: bytes) -> module.Explanation:
    return explain("slurm.out", io.BytesIO(content), read_symptoms(), read_ledger())


def test_a_known_failure_is_told_with_its_line_what_it_means_and_what_to_type():
    found = explained(LOG.encode())
    (known,) = found.known
    assert (known.error, known.line, known.count) == (ERROR, 4, 1)
    assert known.means and known.remedy and "toolchain.nvcc" in known.checks
    assert found.exit_code == 0 and "slurm.out:4" in found.to_text()


def test_a_message_that_is_wrapped_coloured_or_prefixed_by_a_rank_is_the_same_message():
    wrapped = "\x1b[31m[rank0]: RuntimeError: Error building\r\n[rank0]:    extension 'fused_ema_adam'\x1b[0m\r\n"
    assert [item.error for item in explained(wrapped.encode()).known] == [ERROR]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_the_encoding_of_a_log_does_not_matter(encoding):
    text = f"Gerät ü\n{LOG}" if encoding != "utf-16-le" else LOG
    assert [item.error for item in explained(text.encode(encoding)).known] == [ERROR]


def test_a_message_across_two_blocks_is_found_once(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 64)
    monkeypatch.setattr(module, "_OVERLAP", 80)
    (known,) = explained(("filler line\n" * 9 + LOG + "rest\n" * 40).encode()).known
    assert (known.line, known.count) == (13, 1)


def test_many_of_the_same_are_counted_and_the_first_is_named():
    (known,) = explained((LOG * 3).encode()).known
    assert (known.line, known.count) == (4, 3)


def test_an_unknown_failure_says_so_and_repeats_the_last_error():
    found = explained(b"fine\nValueError: the moon is full\nbye\n")
    assert found.known == () and found.exit_code == 1
    assert "none of the known failures" in found.to_text() and "ValueError: the moon is full" in found.to_text()


def test_a_remedy_names_the_command_as_it_is_typed():
    (known,) = explained(b"KeyError: 'ofs'\n").known
    assert "satenv sat fix --code DIR" in known.remedy and "{" not in known.remedy


def test_a_log_without_any_error_says_so():
    assert "no error message in it" in explained(b"iteration 1 | loss 0.5\n").to_text()


def test_bytes_that_are_no_text_end_in_an_answer():
    assert explained(bytes(range(256)) * 4096).known == ()


def test_a_log_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match="gone.out"):
        explain_file(tmp_path / "gone.out", read_symptoms(), read_ledger())


@pytest.mark.parametrize("module_name", ["cogvideo_sat_env", "cogvideo_sat_env.doctor"])
def test_both_commands_read_a_log_from_a_pipe(module_name):
    done = subprocess.run(
        [sys.executable, "-m", module_name, "doctor", "--explain", "-"], input=LOG, capture_output=True, text=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and ERROR in done.stdout and "standard input:4" in done.stdout, done.stderr

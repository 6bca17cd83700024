"""What a process said last, in one line."""

from __future__ import annotations

import pytest

from cogvideo_sat_env.doctor.exit_reasons import how_it_ended

WORKER = """Fatal Python error: Aborted

Thread 0x00007f (most recent call first):
  File "decord/video_reader.py", line 50 in __init__
"""
MAIN = """Traceback (most recent call last):
  File "data.py", line 7, in <module>
RuntimeError: DataLoader worker (pid(s) 7) exited unexpectedly
The above exception was the direct cause of the following exception:
RuntimeError: DataLoader worker (pid 7) is killed by signal: Aborted.
Exception ignored in: <module 'threading'>
"""


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, WORKER + MAIN, "exit code 1 and without a result: RuntimeError: DataLoader worker (pid 7) is killed by"),
        (1, MAIN + WORKER, "exit code 1 and without a result: RuntimeError: DataLoader worker (pid 7) is killed by"),
        (1, WORKER, "exit code 1 and without a result: Fatal Python error: Aborted"),
        (1, "subprocess.TimeoutExpired: too slow\nbye", "without a result: subprocess.TimeoutExpired: too slow"),
        (3, "no such thing", "exit code 3 and without a result: no such thing"),
        (-6, WORKER, "SIGABRT (aborted): Fatal Python error: Aborted"),
        (-11, "", "SIGSEGV (segmentation fault)"),
    ],
)
def test_the_line_that_tells_most(code: int, said: str, words: str) -> None:
    assert words in how_it_ended(code, said)

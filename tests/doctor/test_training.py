"""What the training checks make of runs that went wrong; the runs themselves are played here, real ones are e2e."""

from __future__ import annotations

import math

import pytest

from cogvideo_sat_env.doctor.checks import _ranks, training
from cogvideo_sat_env.doctor.checks._probe import ProbeRequest, failed, passed

GOOD = [1.4, 1.1, 0.9, 0.8]


def run(losses=GOOD, digest: str = "d", precision: str = "bf16"):
    return {"losses": losses, "digest": digest, "precision": precision, "checkpoint": "/nowhere", "torch": "2.10.0",
            "deepspeed": "0.19.8", "accumulation": 1}  # fmt: skip


@pytest.fixture
def play(monkeypatch, tmp_path):
    """Return a function that runs a check whose ranks answer as told, beside a reference of GOOD losses."""

    def examine(check, *details, problem=None):
        ranks = _ranks.Ranks([passed("trained", **item) for item in details], problem)
        asked = []
        monkeypatch.setattr(_ranks, "launch", lambda *given: asked.append(given) or ranks)
        monkeypatch.setattr(training._train, "reference", lambda shared, workdir: run())
        monkeypatch.setattr(training._tiny, "prepare_cpu", lambda: None)
        outcome = check(ProbeRequest(tmp_path, tmp_path, {"gpu": {"gpus": [{}] * 8}}))
        return outcome, asked

    return examine


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([1.4, 1.1, 0.9], "4 steps expected"),
        ([1.4, math.nan, math.nan, math.nan], "all finite"),
        ([1.4, 1.5, 1.6, 1.7], "doesn't go down"),
    ],
)
def test_a_run_that_goes_wrong_is_judged(losses, words):
    outcome = training._judge(run(losses))
    assert outcome.status == "failed" and words in outcome.finding and "checkpoint" not in outcome.details


def test_two_processes_that_agree_with_one_pass(play):
    outcome, _ = play(training.two_processes, run([1.4, 1.1005, 0.9, 0.8]), run())
    assert outcome.status == "passed"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (run([1.4, 1.2, 1.0, 0.9]), run(), "gradients are not averaged"),
        (run(), run(digest="other"), "different weights"),
        (run([1.4, 1.5, 1.6, 1.7]), run(), "doesn't go down"),
    ],
)
def test_two_processes_that_differ_fail(play, first, second, words):
    outcome, _ = play(training.two_processes, first, second)
    assert outcome.status == "failed" and words in outcome.finding


def test_a_problem_of_a_rank_is_the_finding(play):
    outcome, _ = play(training.two_processes, problem=failed("rank 1 of 2 died with signal 11"))
    assert outcome.finding == "rank 1 of 2 died with signal 11"


def test_gpus_train_in_both_precisions_two_at_most(play):
    both = {"runs": [run(precision="bf16"), run(precision="fp16")]}
    outcome, asked = play(training.gpu, both, both)
    assert outcome.status == "passed" and "bf16: loss 1.4000" in outcome.finding and "fp16: loss" in outcome.finding
    assert asked[0][3] == 2


def test_gpus_with_different_weights_fail_and_name_the_precision(play):
    one, other = ({"runs": [run(), run(digest=d, precision="fp16")]} for d in "ab")
    outcome, _ = play(training.gpu, one, other)
    assert outcome.status == "failed" and outcome.finding.startswith("fp16: after the last step")


# ---- what ranks answered, and who is to blame


def test_what_a_rank_says_of_itself_counts_more_than_what_it_says_of_another():
    peer = failed("RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:25299")
    assert "rank 1: ImportError" in _ranks._problem([peer, failed("ImportError: x")], "", 1, None).finding
    said = "[1]:\nMemoryError\nfailed (exitcode: -9) local_rank: 1 (pid: 7) of binary"
    assert "rank 1 of 2 died with signal 9: MemoryError" in _ranks._problem([peer, None], said, 1, None).finding
    assert "rank 0: RuntimeError: [gloo]" in _ranks._problem([peer, peer], "", 1, None).finding


def test_torchrun_that_does_not_start_is_the_finding():
    problem = _ranks._problem([None, None], "RuntimeError: The server socket has failed to listen", 1, None)
    assert "ranks 0, 1 of 2 ended without an answer" in problem.finding and "failed to listen" in problem.finding


def test_a_rank_that_died_is_named_also_when_the_other_ended_in_the_same_moment():
    peer = failed("RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:25299")
    said = (
        "MemoryError\nfailed (exitcode: 1) local_rank: 0 (pid: 6) of binary\n"
        "[1]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : 9 (pid: 7)\n  error_file: <N/A>\n"
        "[0]:\n  rank      : 0 (local_rank: 0)\n  exitcode  : 1 (pid: 6)\n"
    )
    assert "rank 1 of 2 died with exit code 9" in _ranks._problem([peer, None], said, 1, None).finding

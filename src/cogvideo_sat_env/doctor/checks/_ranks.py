"""One check function run by several processes that torchrun starts on this machine, as upstream starts training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._probe import ProbeOutcome, ProbeRequest, failed, last_error


@dataclass(frozen=True)
class Ranks:
    """What the ranks answered, in their order; `problem` is set when not all of them did, or one failed."""

    outcomes: list[ProbeOutcome]
    problem: ProbeOutcome | None = None


def launch(request: ProbeRequest, subject: str, function: str, count: int, limit: float) -> Ranks:
    """Run checks/<subject>.py's `function` in `count` ranks with `request`'s inputs; at most `limit` seconds.

    Every rank gets the same folders. A rank that raises, dies or doesn't come ends the others and is the problem.
    """
    folder = request.workdir / f"ranks-{function}"
    (folder / "work-0").mkdir(parents=True)
    asked = {
        "folder": str(Path(__file__).parent), "checks": [(subject, function)], "ranks": True,
        "shared": str(request.shared), "inputs": request.inputs,
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(asked), encoding="utf-8")
    harness = str(Path(__file__).with_name("_harness.py"))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", harness,
        str(folder / "request.json"),
    ]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name not in _OF_ONE_RANK}
    env.setdefault("OMP_NUM_THREADS", "1")
    process = subprocess.Popen(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    late = False
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        late = True
        process.terminate()  # torchrun then ends its ranks
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()  # and the ranks with it (_harness.py)
            output, _ = process.communicate()
    print(output[-20000:])
    answers = [_read(folder / f"result-{rank}.json") for rank in range(count)]
    outcomes = [answer for answer in answers if answer is not None]
    return Ranks(outcomes, _problem(answers, output, process.returncode, limit if late else None))


_OF_ONE_RANK = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK",
)  # fmt: skip


# What a rank says when another one has gone.
_PEER = re.compile(r"[Cc]onnection (closed|reset) by peer|Broken pipe|remote process exited")
# torchrun's word on the rank that failed first, and on each in its summary: two may end within one look of its
_ENDED = re.compile(
    r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<rank>\d+)"
    r"|\(local_rank: (?P<listed_rank>\d+)\)\s+exitcode\s*: (?P<listed_code>-?\d+)"
)


def _problem(answers: list[ProbeOutcome | None], output: str, code: int, limit: float | None) -> ProbeOutcome | None:
    bad = {rank: answer for rank, answer in enumerate(answers) if answer is not None and answer.status == "failed"}
    own = {rank: answer for rank, answer in bad.items() if not _PEER.search(answer.finding)}
    silent = [str(rank) for rank, answer in enumerate(answers) if answer is None]
    if own or (bad and not silent):  # what a rank says of itself counts for more than what it says of another
        rank, answer = next(iter((own or bad).items()))
        return failed(f"rank {rank}: {answer.finding}", answer.remedy, ledger=answer.ledger, **answer.details)
    if not silent and code == 0:
        return None
    for ended in _ENDED.finditer(output):
        rank, number = ended["rank"] or ended["listed_rank"], int(ended["code"] or ended["listed_code"])
        if rank in silent and limit is None:  # torchrun has then ended the others
            how = f"exit code {number}" if number >= 0 else f"signal {-number}"
            died = f"rank {rank} of {len(answers)} died with {how}"
            return failed(f"{died}: {last_error(output[: ended.start()])}", silent=silent)
    who = f"{'ranks' if len(silent) > 1 else 'rank'} {', '.join(silent)} of {len(answers)}" if silent else "torchrun"
    if limit is not None:
        return failed(f"{who} did not answer within {limit:.0f} s: {last_error(output)}", silent=silent)
    return failed(f"{who} ended without an answer (torchrun: exit code {code}): {last_error(output)}", silent=silent)


def _read(path: Path) -> ProbeOutcome | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # it never came so far
        return None
    return ProbeOutcome(found["status"], found["finding"], found["remedy"], found["details"], tuple(found["ledger"]))

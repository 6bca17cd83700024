"""Starting the ranks of `doctor --nodes N --ntasks M`: with srun where Slurm is, with torchrun on this machine."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, MissingToolError, SatenvError, SourceError
from cogvideo_sat_env.doctor.command_options import DoctorOptions
from cogvideo_sat_env.doctor.fleet import job_step
from cogvideo_sat_env.doctor.fleet.messages import GONE, Client

_PASS_ON = 30.0  # seconds to reach rank 0, which may start later than the rank that gave up
_SOURCE = Path(__file__).resolve().parents[3]
# As scripts/satenv does it: no PYTHONPATH of ours, which the doctor would rightly complain of.
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from cogvideo_sat_env.doctor.__main__ import main; sys.exit(main())"
)


def check_counts(nodes: int | None, ntasks: int | None) -> tuple[int, int]:
    """Return how many nodes and ranks are meant: one rank a node unless given. Raises InputError."""
    count = 1 if nodes is None else nodes
    ranks = count if ntasks is None else ntasks
    if count < 1:
        raise InputError(f"--nodes {count}; expected 1 or more", satenv("doctor --nodes 2"))
    if ranks < count:
        raise InputError(f"--ntasks {ranks} for {count} nodes; expected at least one rank a node", f"--ntasks {count}")
    return count, ranks


def arguments_of(asked: DoctorOptions) -> list[str]:
    """Return the options that a rank gets: those that were typed, again."""
    arguments = ["--level", asked.level, "--patience", f"{asked.patience:g}"]
    for option, names in (("--only", asked.only), ("--skip", asked.skip)):
        arguments += [word for name in names for word in (option, name)]
    for option, value in (("--nodes", asked.nodes), ("--ntasks", asked.ntasks)):
        arguments += [option, str(value)] if value is not None else []
    for option, path in (("--advisories", asked.advisories), ("--config", asked.config)):
        arguments += [option, str(path.absolute())] if path else []
    return arguments


def launch(prefix: Path, nodes: int, ranks: int, arguments: Sequence[str], environ: Mapping[str, str]) -> Any:
    """Start `ranks` processes on `nodes` nodes with the doctor's `arguments`; return rank 0's report as JSON values.

    Raises MissingToolError when there is no srun for several nodes, SatenvError when the ranks don't start.
    """
    rank = [sys.executable, "-I", "-B", "-c", _MAIN, str(_SOURCE), "doctor", "-p", str(prefix), *arguments, "--json"]
    srun = which("srun", path=environ.get("PATH"))
    if srun and (nodes > 1 or environ.get("SLURM_JOB_ID")):
        # a rank that gives up may not take the others with it: rank 0 reports
        how = ["--overlap", "--export=ALL", "--kill-on-bad-exit=0"]
        command = [srun, f"--nodes={nodes}", f"--ntasks={ranks}", *how, *rank]
    elif nodes > 1:
        raise MissingToolError(
            f"no srun on PATH; expected Slurm to reach {nodes} nodes",
            f"in an allocation: salloc -N {nodes} {satenv('doctor --nodes', nodes)}; without Slurm, on every node:\n"
            f"  torchrun --nnodes {nodes} --nproc-per-node {ranks // nodes} --rdzv-backend c10d"
            f" --rdzv-endpoint FIRST:29500 --no-python \\\n    {satenv('doctor --nodes', nodes)} --ntasks {ranks}",
        )
    else:
        command = [
            str(prefix / "bin" / "python"), "-m", "torch.distributed.run", "--standalone",
            "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}", "--no-python", *rank,
        ]  # fmt: skip
    key, port = secrets.token_hex(16), environ.get(job_step.PORT) or str(20000 + secrets.randbelow(20000))
    env = {"OMP_NUM_THREADS": "1", **environ, job_step.KEY: key, job_step.PORT: port}
    first = job_step.first_host(environ.get("SLURM_JOB_NODELIST", ""))
    hosts = (first, *job_step.addresses(first, environ)) if first else ("127.0.0.1",)
    try:
        launcher = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise SatenvError(
            f"{command[0]} can't be started: {error.strerror}", f"{satenv('doctor')} without --nodes"
        ) from error
    try:
        out, err = _read(launcher, lambda rank, words: _pass_on(rank, words, hosts, int(port), key.encode()))
    finally:
        if launcher.poll() is None:  # interrupted: the launcher ends its ranks before it ends itself
            launcher.terminate()
            launcher.wait()
    answers = _objects(out)
    report = next((answer for answer in answers if "results" in answer), None)
    if report is not None:
        return report
    refused = next((answer for answer in answers if "error" in answer), None)
    if refused is not None:
        raise SatenvError(f"a rank says: {refused['error']}", refused.get("remedy"))
    output = [line.strip() for line in (out + err).splitlines() if line.strip()]
    output = output or ["it printed nothing"]
    summary = next((line for line in output if line.startswith("srun:")), output[-1])
    raise SatenvError(
        f"no report from rank 0 ({os.path.basename(command[0])} ended with {launcher.returncode}): {summary[:400]}",
        f"{satenv('doctor')} on one node first",
    )


def _read(launcher: subprocess.Popen[str], on_error: Callable[[int, str], None]) -> tuple[str, str]:
    """Return what the ranks print, when all have ended; `on_error` gets number and words of each failure at once."""
    assert launcher.stdout is not None and launcher.stderr is not None
    errors: list[str] = []
    stderr = launcher.stderr
    reader = threading.Thread(target=lambda: errors.extend(stderr), daemon=True)
    reader.start()
    text, seen = "", 0
    for line in launcher.stdout:
        text += line
        if not line.startswith("}"):
            continue
        answers = _objects(text)
        for answer in answers[seen:]:
            rank = re.match(r"rank (\d+)\b", str(answer.get("error", "")))
            if rank:  # beside the reading: rank 0 may have ended, and is then asked in vain
                threading.Thread(target=on_error, args=(int(rank[1]), str(answer["error"])), daemon=True).start()
        seen = len(answers)
    launcher.wait()
    reader.join()
    return text, "".join(errors)


def _pass_on(rank: int, words: str, hosts: Sequence[str], port: int, key: bytes) -> None:
    """Send rank 0 the last words of a rank that couldn't reach it; without them it would wait for that one."""
    try:
        Client(hosts, port, key, rank, _PASS_ON).ask(GONE, words, _PASS_ON)
    except SourceError:  # rank 0 then says that the rank never came, later
        return


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that begin a line of `text`: rank 0's report, and what a rank says that can't go on."""
    found = []
    at = 0
    while (start := re.compile(r"^\{", re.MULTILINE).search(text, at)) is not None:
        try:
            content, at = json.JSONDecoder().raw_decode(text, start.start())
        except ValueError:
            at = start.end()
            continue
        found.append(content)
    return found

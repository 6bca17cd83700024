"""Several ranks: who came, who differs, who died; with a `srun` that is a shell script, and a real torchrun (e2e)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError, MissingToolError, SourceError
from cogvideo_sat_env.doctor.fleet import compare, job_step, launch
from cogvideo_sat_env.doctor.fleet.messages import Client, Coordinator

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src"
SLURM = {
    "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURMD_NODENAME": "gpu08",
}  # fmt: skip

# ---- which rank am I


def test_a_step_of_slurm_is_recognised():
    found = job_step.find(SLURM)
    assert (found.rank, found.ranks, found.local_rank, found.host, found.address) == (3, 4, 1, "gpu08", "gpu07")
    assert 20000 <= found.port < 40000 and job_step.find(SLURM | {"SLURM_PROCID": "0"}).port == found.port


def test_a_step_of_torchrun_is_recognised_and_wins_inside_srun():
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "first", "MASTER_PORT": "29500"}
    found = job_step.find(SLURM | torchrun)
    assert (found.rank, found.ranks, found.address) == (1, 2, "first")


def test_the_batch_script_itself_and_a_single_rank_are_no_step():
    assert job_step.find({"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None
    assert job_step.find(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert job_step.find({}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node[03-05,9],login", "node03"), ("a,b", "a"), ("gpu-7", "gpu-7"), ("rack[1-2]-ib", "rack1-ib"), ("", None)],
)
def test_the_first_host_of_slurms_list(nodes, first):
    assert job_step.first_host(nodes) == first


@pytest.mark.parametrize("wrong", [{"SLURM_LOCALID": ""}, {"SATENV_FLEET_PORT": "many"}, {"SLURM_STEP_NODELIST": ""}])
def test_half_a_step_is_refused(wrong):
    with pytest.raises(InputError):
        job_step.find(SLURM | wrong)


@pytest.mark.parametrize(
    ("nodes", "ntasks", "counts"),
    [(2, None, (2, 2)), (None, 3, (1, 3)), (2, 16, (2, 16)), (0, None, None), (4, 2, None)],
)
def test_counts_of_nodes_and_ranks(nodes, ntasks, counts):
    if counts is None:
        with pytest.raises(InputError):
            launch.check_counts(nodes, ntasks)
    else:
        assert launch.check_counts(nodes, ntasks) == counts


def test_without_srun_several_nodes_cannot_be_reached(tmp_path):
    with pytest.raises(MissingToolError) as caught:
        launch.launch(tmp_path, 2, 4, [], {"PATH": str(tmp_path)})
    assert "no srun" in caught.value.message and "--nproc-per-node 2" in caught.value.remedy


# ---- ranks talk


@pytest.fixture
def coordinator():
    found = Coordinator(0, b"one run", 3)
    yield found, found.port
    found.close()


def test_ranks_tell_and_are_answered(coordinator):
    rank0, port = coordinator
    client = Client(["127.0.0.1"], port, b"one run", 2, 5.0)
    assert abs(client.clock_skew()) < 1.0
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.ask("hello", {"host": "b"}, 10.0)))
    asking.start()
    assert rank0.wait("hello", {2}, 10.0) == set() and rank0.messages[2]["hello"] == {"host": "b"}
    rank0.answer("hello", "go on")
    asking.join(10.0)
    assert answers == ["go on"]


def test_a_rank_of_another_run_is_not_let_in(coordinator):
    with pytest.raises(SourceError) as caught:
        Client(["127.0.0.1"], coordinator[1], b"another run", 1, 5.0)
    assert "belongs to another run" in caught.value.message


def test_one_who_connects_and_says_nothing_keeps_nobody_out(coordinator):
    """A port scanner, as security departments run them."""
    with socket.create_connection(("127.0.0.1", coordinator[1])):
        assert abs(Client(["127.0.0.1"], coordinator[1], b"one run", 1, 5.0).clock_skew()) < 1.0


def test_a_silent_program_on_rank_0s_port_is_an_error_and_no_hang():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SourceError) as caught:
        Client(["127.0.0.1"], other.getsockname()[1], b"one run", 1, 0.2)
    assert "belongs to another program" in caught.value.message and "SATENV_FLEET_PORT" in caught.value.remedy


def test_a_port_that_is_taken_is_an_error_of_rank_0():
    with socket.create_server(("", 0)) as other, pytest.raises(SourceError) as caught:
        Coordinator(other.getsockname()[1], b"one run", 2)
    assert "can't listen" in caught.value.message and "SATENV_FLEET_PORT" in caught.value.remedy


def test_a_rank_that_ends_too_early_is_not_waited_for(coordinator):
    rank0, port = coordinator
    text = (
        "import sys, os; sys.path.insert(0, sys.argv[1]);"
        " from cogvideo_sat_env.doctor.fleet.messages import Client;"
        " m = Client(['127.0.0.1'], int(sys.argv[2]), b'one run', 1, 5.0); m.clock_skew(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", text, str(SOURCE), str(port)], check=False)
    assert rank0.wait("hello", {1}, 600.0) == {1} and rank0.lost == {1}


def test_rank_0_that_never_comes_is_an_error():
    with pytest.raises(SourceError) as caught:
        Client(["127.0.0.1"], 1, b"one run", 1, 0.1)
    assert "can't reach rank 0" in caught.value.message and "MASTER_ADDR" in caught.value.remedy


# ---- what differs


def hello(host: str, clock: float = 0.0, **facts):
    versions = {"torch": "2.10.0", "numpy": "2.4.6"} | facts.pop("versions", {})
    machine = {"driver": "580.65.06", "gpus": ["H100"] * 8, "kernel": "5.14"} | facts.pop("machine", {})
    hashes = {"receipt": "a" * 64} | facts.pop("hashes", {})
    fact = {"versions": versions, "machine": machine, "hashes": hashes, "variables": {}, "torch_cuda": "12.9"}
    return {"host": host, "name": host, "clock": clock, "facts": fact | facts, "problem": ""}


def done(
    digest: str = "d", status: str = "passed", finding: str = "trained", unknown=(), checks=None, nodes=(), named=False
):
    details = {"digest": digest, "losses": [1.0, 0.5], "device": "cpu"} if status == "passed" else {}
    training = {"status": status, "finding": finding, "remedy": None, "details": details, "seconds": 1.0}
    return {"training": training, "unknown": list(unknown), "unknown_nodes": list(nodes), "checks": checks,
            "addressed": named}  # fmt: skip


def merged(here, results=None, absent=(), silent=(), lost=(), nodes=None, words=None):
    results = results if results is not None else {rank: done() for rank in here}
    attendance = compare.Attendance(set(absent), set(silent), set(lost), words or {}, nodes, 120.0)
    found = compare.merge(here, results, attendance)
    return {result.id: result for result in found}


def three(**changed):
    return {0: hello("a"), 1: hello("b", **changed), 2: hello("c")}


def test_hosts_that_are_alike_pass():
    found = merged(three(), nodes=3)
    assert {result.status for result in found.values()} == {"passed"}
    assert found["fleet.ranks"].finding == "3 ranks on 3 hosts: a, b, c"


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"versions": {"torch": "2.9.0"}}, "failed", "b has torch 2.9.0 (others: 2.10.0)"),
        ({"versions": {"sat": "0.1"}}, "failed", "b has sat 0.1 (others: none)"),
        ({"hashes": {"receipt": "b" * 64}}, "failed", f"b has receipt {'b' * 12} (others: {'a' * 12})"),
        ({"torch_cuda": "12.8"}, "failed", "b has torch_cuda 12.8 (others: 12.9)"),
        ({"machine": {"driver": "535.54.03"}}, "warning", "b has driver 535.54.03 (others: 580.65.06)"),
        ({"machine": {"gpus": ["A100"]}}, "warning", "b has gpus A100 (others: H100, "),
    ],
)  # fmt: skip
def test_the_host_that_differs_is_named_and_in_what(changed, status, words):
    result = merged(three(**changed))["fleet.same"]
    assert result.status == status and words in result.finding and "a has" not in result.finding


def test_a_host_that_cannot_tell_what_it_has_is_named():
    here = three()
    here[2] |= {"facts": None, "problem": "No module named 'torch'"}
    assert merged(here)["fleet.same"].finding == "c: No module named 'torch'"


@pytest.mark.parametrize(("skew", "status"), [(0.2, "passed"), (-3.0, "warning"), (90.0, "failed")])
def test_clocks_that_go_wrong_are_told(skew, status):
    result = merged(three(clock=skew))["fleet.clock"]
    assert result.status == status and ("the clock of b" in result.finding) is (status != "passed")


def test_ranks_that_never_come_die_or_fall_silent_are_told_apart():
    here = {0: hello("a"), 2: hello("c"), 3: hello("d")}
    result = merged(here, {0: done()}, absent=[1], silent=[2, 3], lost=[2])["fleet.ranks"]
    assert result.status == "failed"
    assert "rank 1 never came within 120 s; rank 2 died on c; rank 3 on d came, but" in result.finding


def test_ranks_on_fewer_hosts_than_asked_for_are_told():
    result = merged({0: hello("a"), 1: hello("a")}, nodes=2)["fleet.ranks"]
    assert result.status == "failed" and "2 ranks are on 1 host (a), 2 asked for" in result.finding


def test_training_names_the_rank_that_failed_first_hand():
    peer = done(status="failed", finding="RuntimeError: Connection closed by peer [10.0.0.2]")
    own = done(status="failed", finding="ImportError: libcudart.so.12")
    result = merged(three(), {0: peer, 1: own, 2: peer})["fleet.training"]
    assert result.status == "failed" and result.finding == "rank 1 on b: ImportError: libcudart.so.12"


def test_other_weights_after_training_together_fail():
    result = merged(three(), {0: done(), 1: done("other"), 2: done()})["fleet.training"]
    assert result.status == "failed" and "rank 1 has other weights" in result.finding


def test_names_that_a_host_does_not_find_fail():
    result = merged(three(), {0: done(), 1: done(unknown=["c"]), 2: done()})["fleet.names"]
    assert result.status == "failed" and "b doesn't find c" in result.finding


def test_checks_are_merged_and_the_worst_says_where():
    def check(status, finding):
        return [{"id": "video.decord", "level": "quick", "status": status, "seconds": 1.0, "finding": finding,
                 "remedy": "correct it" if status == "failed" else None, "details": {}}]  # fmt: skip

    results = {0: done(checks=check("passed", "all right")), 1: done(checks=check("failed", "black frames")), 2: done()}
    result = merged(three(), results)["video.decord"]
    assert (result.status, result.finding, result.remedy) == ("failed", "b: black frames", "correct it")
    assert result.details["hosts"] == {"a": "passed", "b": "failed"}


# ---- a job under a `srun` of ours: each rank a process, each pair a host

SRUN = """
for argument in "$@"; do case $argument in
    --ntasks=*) ranks=${argument#*=};;
    -*) ;;
    *) break;;
esac; shift; done
export SLURM_JOB_ID=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$ranks
rank=0; pids=
while [ $rank -lt $ranks ]; do
    if [ "${DEAD_RANK:-}" != $rank ]; then
        address=127.0.0.1
        [ "${LOST_RANK:-}" != $rank ] || address=first-node.invalid
        MASTER_ADDR=$address SLURM_PROCID=$rank SLURM_LOCALID=0 SLURMD_NODENAME=node$rank "$@" & pids="$pids $!"
    fi
    rank=$((rank + 1))
done
code=0
for pid in $pids; do wait $pid || code=$?; done
exit $code
"""


@pytest.fixture
def job(prefix, tmp_path):
    """Return a function that runs `doctor --nodes N` in a prefix that only prepares data, so that nothing trains."""
    prefix.file("etc/cogvideo-sat-env/receipt.json", '{"data_only": true}')
    prefix.distribution("numpy", "2.4.6")
    prefix.program("srun", SRUN, tmp_path / "slurm")

    def run(nodes: int, *arguments: str, **variables: str) -> tuple[int, dict[str, dict], str]:
        with socket.socket() as probe:  # tests at the same time would all have the port of the same job
            probe.bind(("", 0))
            port = str(probe.getsockname()[1])
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PATH": f"{tmp_path / 'slurm'}:{os.environ['PATH']}"}
        environment["SATENV_FLEET_PORT"] = port
        ran = subprocess.run(
            [sys.executable, "-m", "cogvideo_sat_env.doctor", "-p", str(prefix.root), "--nodes", str(nodes), "--json",
             "--only", "identity.activation", *arguments],
            capture_output=True, text=True, check=False, env=environment | variables,
        )  # fmt: skip
        report = json.loads(ran.stdout)
        return ran.returncode, {item["id"]: item for item in report.get("results", [])}, ran.stdout + ran.stderr

    return run


def test_srun_starts_the_ranks_and_the_first_reports_for_all(job):
    code, found, said = job(3)
    assert code == 0, said
    assert found["fleet.ranks"]["finding"] == "3 ranks on 3 hosts: node0, node1, node2"
    assert found["fleet.same"]["status"] == "passed" and found["fleet.training"]["status"] == "not_run"
    assert found["identity.activation"]["details"]["hosts"] == dict.fromkeys(("node0", "node1", "node2"), "passed")


def test_a_host_with_another_version_is_named(job, prefix):
    """Rank 1's Python sees other packages first, as on a node with a stale local copy."""
    other = prefix.root / "other"
    info = other / "numpy-1.26.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.0\n")
    prefix.program(
        "python",
        f'[ "${{SLURM_PROCID:-}}" = 1 ] && stale="{other}:"\n'
        f'exec env PYTHONPATH="${{stale:-}}{prefix.site}" "{sys.executable}" -S "$@"\n',
    )
    code, found, _ = job(3)
    assert code == 1 and found["fleet.same"]["finding"] == "node1 has numpy 1.26.0 (others: 2.4.6)"


def test_a_rank_that_never_comes_is_a_finding_within_a_limit(job):
    code, found, _ = job(3, "--patience", "0.05", DEAD_RANK="2")
    assert code == 1 and found["fleet.ranks"]["finding"] == "rank 2 never came within 6 s"
    assert found["fleet.training"]["finding"] == "not run: not all ranks came"


def test_a_rank_that_cannot_find_rank_0_reaches_the_report_with_its_own_words_at_once(job):
    """The one who started the ranks passes them on: rank 0 would wait for two minutes, and know no reason."""
    start = time.monotonic()
    code, found, printed = job(3, LOST_RANK="1")
    assert code == 1 and time.monotonic() - start < 60.0, printed
    words = "rank 1 on node1: can't reach rank 0: first-node.invalid"
    assert found["fleet.ranks"]["status"] == "failed" and words in found["fleet.ranks"]["finding"], printed
    assert found["identity.activation"]["details"]["hosts"] == {"node0": "passed", "node2": "passed"}


def test_names_that_only_slurm_knows_are_a_warning():
    found = merged(three(), {0: done(), 1: done(nodes=["c"]), 2: done()})["fleet.names"]
    assert found.status == "warning" and "b doesn't find c" in found.finding and "MASTER_ADDR" in found.remedy
    ranks = {rank: done(nodes=["c"] if rank == 1 else (), named=True) for rank in range(3)}
    found = merged(three(), ranks)["fleet.names"]  # a job script of ours has done what is advised
    assert (found.status, found.remedy) == ("passed", None) and "b doesn't find c" in found.finding


def test_a_master_address_of_the_users_own_is_not_replaced(monkeypatch):
    """A job would take it, too; only Slurm's own names are looked up with Slurm."""
    monkeypatch.setattr(job_step, "resolves", lambda name: False)
    monkeypatch.setattr(job_step, "addresses", lambda node, environ: ("10.0.0.7",))
    assert job_step.find(SLURM).otherwise == ("10.0.0.7",)
    assert job_step.find(SLURM | {"MASTER_ADDR": "first"}).otherwise == ()


def test_the_addresses_of_a_node_are_read_from_scontrol(tmp_path, prefix):
    program = """
case "$1" in
    getaddrs) echo "$2: [127.0.0.2]:6818";;
    *) printf 'NodeName=%s Arch=x86_64\n   NodeAddr=127.0.0.3 NodeHostName=x\n' "$3";;
esac
"""
    prefix.program("scontrol", program, tmp_path / "bin")
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.4"}
    assert job_step.addresses("n7", environ) == ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    assert job_step.addresses("n7", {"PATH": "/nothing"}) == ()


def test_a_srun_that_refuses_is_quoted(job, prefix, tmp_path):
    prefix.program("srun", "echo 'srun: error: Unable to allocate resources' >&2; exit 1\n", tmp_path / "slurm")
    code, found, said = job(2)
    assert code == 9 and not found and "srun: error: Unable to allocate resources" in said


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--ntasks", "3"], "started 2 ranks"), (["--ntasks", "2"], "SLURM_PROCID=7")]
)
def test_a_rank_among_others_than_told_is_refused_and_waits_for_nobody(prefix, arguments, words):
    variables = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_PROCID": "7" if "7" in words else "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "cogvideo_sat_env.doctor", "-p", str(prefix.root), *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "SLURM_STEP_NODELIST": "node1", **variables},
    )  # fmt: skip
    assert ran.returncode == 3 and words in ran.stderr


def test_one_rank_alone_is_refused(job):
    code, _, said = job(1)
    assert code == 3 and "nobody to be compared with" in said


@pytest.mark.e2e
def test_real_torchrun_trains_three_ranks_together(good_prefix, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(Path(__file__).parents[2] / "scripts" / "satenv"), "doctor", "-p", str(good_prefix), "--ntasks", "3",
         "--only", "identity.floors", "--json"],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    found = {item["id"]: item for item in report["results"]}
    assert found["fleet.training"]["status"] == "passed", found["fleet.training"]
    assert "3 ranks trained 4 ZeRO-2 steps together with gloo" in found["fleet.training"]["finding"]
    assert found["fleet.same"]["status"] == "passed" and [item["rank"] for item in report["ranks"]] == [0, 1, 2]

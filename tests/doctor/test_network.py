"""Network checks: names, links, bandwidths of machines that we don't have, and ranks that die or hang."""

from __future__ import annotations

import pytest

from cogvideo_sat_env.doctor.checks import network
from cogvideo_sat_env.doctor.checks._probe import ProbeRequest
from cogvideo_sat_env.doctor.gpus import Gpu, GpuFacts, Link, NvidiaSmi, parse_links

from .conftest import Machine

NVLINKS = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)
\t Link 0: 26.562 GB/s
\t Link 1: 26.562 GB/s
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)
\t Link 0: 26.562 GB/s
\t Link 1: <inactive>
"""
TWO = tuple(Gpu(index, "NVIDIA H100", 81559, "9.0") for index in range(2))


def test_nvidia_smis_links_are_read():
    assert parse_links("0, 5, 16\n1, 5, 16\n", NVLINKS) == (Link(0, 53.124, 5, 16), Link(1, 26.562, 5, 16))
    assert parse_links("0, 4, [N/A]\n", "") == (Link(0, 0.0, 4, 0),)


def test_the_program_is_asked_for_links(prefix):
    program = prefix.program("nvidia-smi", 'case "$1" in nvlink) exit 1;; *) echo "0, 4, 16"; echo "1, 4, 8";; esac\n')
    assert NvidiaSmi(str(program)).links() == (Link(0, 0.0, 4, 16), Link(1, 0.0, 4, 8))


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([], None),
        ([Link(0, 450.0, 5, 16), Link(1, 300.0, 5, 16)], ("NVLink", 300.0)),
        ([Link(0, 450.0, 5, 16), Link(1, 0.0, 4, 16)], ("PCI Express 4 x16", pytest.approx(31.5, abs=0.1))),
        ([Link(0, 0.0, 3, 16)], ("PCI Express 3 x16", pytest.approx(15.75, abs=0.1))),
        ([Link(0, 0.0, 2, 16)], ("PCI Express 2 x16", 8.0)),
        ([Link(0, 0.0, 0, 0)], None),
    ],
    ids=["untold", "NVLink", "no NVLink on one", "gen 3", "gen 2", "odd"],
)
def test_the_nominal_bandwidth_is_the_slowest_gpus(links, expected):
    assert network.nominal([link.__dict__ for link in links]) == expected


@pytest.mark.parametrize(
    ("speeds", "indirect", "status", "words"),
    [
        ({"1": 380.0, "2": 390.0}, [], "passed", "380.0 to 390.0 GB/s, NVLink has 450"),
        ({"1": 380.0, "2": 190.0}, [], "warning", "GPU 0 to 2 is slow"),
        ({"1": 380.0, "2": 20.0}, [2], "warning", "no peer access to GPU 2"),
    ],
)
def test_copies_are_held_against_the_link(speeds, indirect, status, words):
    outcome = network.judge_copies(speeds, indirect, ("NVLink", 450.0))
    assert outcome.status == status and words in outcome.finding


def test_the_all_reduce_is_held_against_the_link():
    """2 (n - 1) / n of 256 MiB in 1.5 ms over 8 GPUs is 313 GB/s."""
    fast = network.judge_reduction(8, 0.0015, ("NVLink", 450.0))
    assert fast.status == "passed" and "313.2 GB/s" in fast.finding
    assert network.judge_reduction(8, 0.02, ("NVLink", 450.0)).status == "warning"
    assert network.judge_reduction(8, 0.02, None).status == "passed"


# ---- names


def names(monkeypatch, forward: dict[str, list[str]], back: dict[str, str], name: str = "node1") -> None:
    def addresses(asked: str) -> list[str]:
        if asked not in forward:
            raise OSError("Name or service not known")
        return forward[asked]

    monkeypatch.setattr(network.socket, "gethostname", lambda: name)
    monkeypatch.setattr(network, "addresses_of", addresses)
    monkeypatch.setattr(network, "name_of", back.get)


@pytest.mark.parametrize(
    ("forward", "back", "status", "words"),
    [
        ({"node1": ["10.0.0.1"]}, {"10.0.0.1": "node1.cluster"}, "passed", "and the other way round"),
        ({"node1": ["127.0.1.1"]}, {}, "passed", "not for several"),
        ({}, {}, "warning", "has no address"),
        ({"node1": ["10.0.0.1"]}, {"10.0.0.1": "dhcp-7"}, "warning", "10.0.0.1 is dhcp-7"),
        ({"node1": ["10.0.0.1"]}, {}, "warning", "10.0.0.1 is nobody"),
    ],
)
def test_the_hosts_name_leads_both_ways(monkeypatch, tmp_path, forward, back, status, words):
    names(monkeypatch, forward, back)
    outcome = network.hostname(ProbeRequest(tmp_path, tmp_path, {}))
    assert outcome.status == status and words in outcome.finding


def test_this_machine_has_a_verdict(prefix):
    assert prefix.check("network.hostname").status in ("passed", "warning")


# ---- ranks: torchrun and NCCL played by a few lines of Python

TORCHRUN = """
import os, subprocess, sys
count = int(next(a for a in sys.argv if a.startswith("--nproc-per-node=")).split("=")[1])
script = sys.argv[sys.argv.index(f"--nproc-per-node={count}") + 1:]
ranks = [
    subprocess.Popen([sys.executable, *script], env=dict(os.environ, RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE=str(count)))
    for r in range(count)
]
sys.exit(max(abs(rank.wait()) for rank in ranks))
"""
DISTRIBUTED = """
import os
def init_process_group(backend): assert backend == "nccl"
def get_rank(): return int(os.environ["RANK"])
def get_world_size(): return int(os.environ["WORLD_SIZE"])
def destroy_process_group(): pass
def all_reduce(values):
    {reduce}
"""


def fake_torch(prefix, reduce: str) -> None:
    prefix.file("lib/site/torch/__init__.py", """
        from . import cuda, distributed
        class Values:
            def __init__(self, value): self.value = value
            def __eq__(self, other): return Values(self.value == other)
            def __getitem__(self, index): return self.value
            def all(self): return self.value
        def full(shape, value, device): return Values(value)
        """)  # fmt: skip
    prefix.file("lib/site/torch/cuda.py", "def set_device(index): pass\ndef synchronize(): pass\n")
    prefix.file("lib/site/torch/distributed/__init__.py", DISTRIBUTED.format(reduce=reduce))
    prefix.file("lib/site/torch/distributed/run.py", TORCHRUN)


def nccl(prefix, reduce: str, links: tuple[Link, ...] = ()):
    fake_torch(prefix, reduce)
    return prefix.check("network.nccl", machine=Machine(GpuFacts("580.65.06", TWO), *links))


def test_all_ranks_reduce_and_pass(prefix):
    result = nccl(prefix, "values.value = 3.0")
    assert result.status == "passed" and "over 2 GPUs" in result.finding, result.finding


def test_a_wrong_sum_fails_and_names_the_rank(prefix):
    result = nccl(prefix, "values.value = 3.0 - get_rank()")
    assert result.status == "failed", result.finding
    assert "rank 1" in result.finding and "NCCL's sum over 2 GPUs is 2.0, expected 3.0" in result.finding


def test_a_rank_that_dies_is_named(prefix):
    result = nccl(prefix, "values.value = 3.0 if get_rank() == 0 else os._exit(9)")
    assert result.status == "failed" and "rank 1 of 2 ended without an answer" in result.finding, result.finding


def test_a_rank_that_raises_is_the_finding(prefix):
    result = nccl(prefix, "raise RuntimeError('NCCL error in: unhandled system error')")
    assert result.status == "failed"
    assert "rank 0: RuntimeError: NCCL error in: unhandled system error" in result.finding


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_and_named(prefix, monkeypatch, tmp_path):
    from cogvideo_sat_env.doctor.checks import _ranks

    fake_torch(prefix, "import time\n    values.value = 3.0 if get_rank() == 0 else time.sleep(60)")
    monkeypatch.setattr(_ranks.sys, "executable", str(prefix.root / "bin" / "python"))
    inputs = {"gpu": {"gpus": [{}, {}]}, "links": []}
    ranks = _ranks.launch(ProbeRequest(tmp_path, tmp_path, inputs), "network", "one_of_nccl", 2, 3.0)
    assert ranks.problem.status == "failed" and "rank 1 of 2 did not answer within 3 s" in ranks.problem.finding


def test_one_gpu_has_nobody_to_talk_to(prefix):
    result = prefix.check("network.nccl", machine=Machine(GpuFacts("580.65.06", TWO[:1])))
    assert (result.status, result.finding) == ("not_run", "not run: one GPU only")

"""The doctor on several processes and hosts: each rank examines its place, rank 0 compares and reports.

    1  every rank tells rank 0 that it is there, what its host has (versions, hashes, drivers), how its clock goes
    2  all ranks train together for a few steps, with gloo, or with NCCL where every rank has a GPU
    3  one rank a host runs the checks of the level; all send what they found; rank 0 merges it into one report

A rank that dies or never comes is a finding within a time limit. Results in the report, before those of the catalogue:
fleet.ranks, fleet.same, fleet.clock, fleet.names, fleet.training.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError, SatenvError
from cogvideo_sat_env.doctor.check_result import FULL, QUICK, CheckResult, CheckSpec
from cogvideo_sat_env.doctor.command_options import DoctorOptions, read_options
from cogvideo_sat_env.doctor.doctor_report import DoctorReport
from cogvideo_sat_env.doctor.fleet import compare, job_step, launch
from cogvideo_sat_env.doctor.fleet.job_step import Step, find
from cogvideo_sat_env.doctor.fleet.messages import GONE, Client, Coordinator
from cogvideo_sat_env.doctor.runner import Conditions, Doctor

_CHECKS = (
    CheckSpec("fleet.facts", QUICK, "hosts that differ", limit=120.0),
    CheckSpec("fleet.training", QUICK, "ranks that can't train together", limit=600.0, training=True),
)
_JOIN = 120.0  # seconds for all ranks to come: srun starts them within seconds, a cold file system takes a minute
_CHECKED = {"quick": 900.0, "gpu": 2400.0, "full": 3600.0}  # for the checks of a level on the slowest host
_LAST_WORD = 10.0  # seconds for the answer to the last message to arrive
_EXTRA = 60.0


@dataclass(frozen=True)
class FleetReport(DoctorReport):
    """A report over several hosts; `hosts` has each rank's host and facts, in the order of the ranks."""

    hosts: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values: those of one host, and `ranks`."""
        return super().to_json() | {"ranks": list(self.hosts)}


def examine(prefix: Path, asked: DoctorOptions, environ: Mapping[str, str] | None = None) -> DoctorReport | None:
    """Examine `prefix` on all ranks and return the report; None in every rank but the first.

    In a step of srun or torchrun this process is a rank; outside of one it starts the ranks. Raises InputError for
    counts that don't fit, MissingToolError when nothing can reach the nodes, SourceError when ranks can't talk.
    """
    variables = os.environ if environ is None else environ
    nodes, ranks = launch.check_counts(asked.nodes, asked.ntasks)
    place = find(variables)
    if place is None:
        if ranks == 1:
            raise InputError("one rank on one node has nobody to be compared with", "leave --nodes and --ntasks out")
        return _read(launch.launch(prefix, nodes, ranks, launch.arguments_of(asked), variables))
    if asked.ntasks is not None and asked.ntasks != place.ranks:
        raise InputError(
            f"--ntasks {asked.ntasks}, but srun or torchrun started {place.ranks} ranks", f"--ntasks {place.ranks}"
        )
    if place.rank == 0:
        return _lead(prefix, asked, place)
    try:
        _follow(prefix, asked, place)
    except SatenvError as error:  # who started the ranks passes this on to rank 0
        words = error.message.removeprefix(f"rank {place.rank}").lstrip(": ")
        error.message = f"rank {place.rank} on {place.host}: {words}"
        raise
    return None


def _follow(prefix: Path, asked: DoctorOptions, place: Step) -> None:
    hosts = (place.address, *place.otherwise)
    client = Client(hosts, place.port, place.key, place.rank, _JOIN * asked.patience)
    hello = _hello(prefix, asked, place) | {"clock": client.clock_skew()}
    plan = client.ask("hello", hello, (_JOIN + _EXTRA) * asked.patience)
    plan["address"] = client.address
    client.ask("result", _work(prefix, asked, place, plan), (_CHECKED[asked.level] + _EXTRA) * asked.patience)


def _lead(prefix: Path, asked: DoctorOptions, place: Step) -> DoctorReport:
    started, clock = datetime.now(timezone.utc), time.monotonic()
    coordinator = Coordinator(place.port, place.key, place.ranks)
    try:
        others = set(range(1, place.ranks))
        hello = _hello(prefix, asked, place) | {"clock": 0.0}
        absent = coordinator.wait("hello", others, _JOIN * asked.patience)
        here = {0: hello} | {rank: coordinator.messages[rank]["hello"] for rank in sorted(others - absent)}
        plan = {
            "together": not absent,
            "device": "cuda" if all(item["gpus"] > item["local_rank"] for item in here.values()) else "cpu",
            "address": place.address if job_step.resolves(place.address) else "127.0.0.1", "port": _free_port(),
            "names": sorted({item["name"] for item in here.values()}),
            "nodes": sorted({item["host"] for item in here.values()}),
        }  # fmt: skip
        coordinator.answer("hello", plan)
        results = {0: _work(prefix, asked, place, plan)}
        silent = coordinator.wait("result", set(here) - {0}, _CHECKED[asked.level] * asked.patience)
        results |= {rank: coordinator.messages[rank]["result"] for rank in set(here) - silent - {0}}
        coordinator.answer("result", None)
        coordinator.wait_answered("result", set(here) - silent - {0}, _LAST_WORD)
    finally:
        coordinator.close()
    words = {rank: sent[GONE] for rank, sent in coordinator.messages.items() if GONE in sent}
    attendance = compare.Attendance(absent, silent, coordinator.lost, words, asked.nodes, _JOIN * asked.patience)
    merged = compare.merge(here, results, attendance)
    hosts = tuple({"rank": rank} | item for rank, item in here.items())
    return FleetReport(
        prefix=prefix, level=asked.level, started=started, duration=time.monotonic() - clock,
        results=tuple(merged), hosts=hosts,
    )  # fmt: skip


def _hello(prefix: Path, asked: DoctorOptions, place: Step) -> dict[str, Any]:
    """Return who this rank is and what its host has."""
    result = _one(prefix, asked, "fleet.facts", {})
    gpus = (result.details.get("machine") or {}).get("gpus") or []
    return {
        "host": place.host, "name": socket.gethostname(), "local_rank": place.local_rank, "gpus": len(gpus),
        "facts": result.details if result.status == "passed" else None, "problem": result.finding,
    }  # fmt: skip


def _work(prefix: Path, asked: DoctorOptions, place: Step, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Do this rank's part: train with the others, look their names up, and, once a host, run the level's checks."""
    training = None
    if plan["together"]:
        options = {
            "fleet.rank": place.rank, "fleet.ranks": place.ranks, "fleet.local_rank": place.local_rank,
            **{f"fleet.{name}": plan[name] for name in ("device", "address", "port")},
        }  # fmt: skip
        training = _one(prefix, asked, "fleet.training", options).to_json()
    checks = None
    if place.local_rank == 0:
        doctor = Doctor(prefix, Conditions(options=read_options(asked), patience=asked.patience))
        checks = [result.to_json() for result in doctor.run(asked.level, asked.only, asked.skip).results]
    unknown = {kind: [name for name in plan[kind] if not job_step.resolves(name)] for kind in ("names", "nodes")}
    return {
        "training": training, "checks": checks, "unknown": unknown["names"], "unknown_nodes": unknown["nodes"],
        "addressed": bool(os.environ.get("MASTER_ADDR")),
    }  # fmt: skip


def _one(prefix: Path, asked: DoctorOptions, check: str, options: Mapping[str, Any]) -> CheckResult:
    doctor = Doctor(prefix, Conditions(checks=_CHECKS, options=options, patience=asked.patience))
    (result,) = doctor.run(FULL, only=[check]).results
    return result


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _read(content: Mapping[str, Any]) -> FleetReport:
    """Return a report that rank 0 printed as JSON."""
    names = ("id", "level", "status", "seconds", "finding", "remedy", "details")
    return FleetReport(
        prefix=Path(content["prefix"]), level=content["level"], started=datetime.fromisoformat(content["started"]),
        duration=content["duration"], host=content["host"], hosts=tuple(content["ranks"]),
        results=tuple(CheckResult(**{name: item[name] for name in names}) for item in content["results"]),
    )  # fmt: skip

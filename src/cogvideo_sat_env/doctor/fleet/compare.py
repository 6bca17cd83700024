"""Merges what the ranks of a job found: which host differs from the others, and in what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.doctor.check_result import FAILED, NOT_RUN, PASSED, QUICK, WARNING, CheckResult
from cogvideo_sat_env.doctor.checks._probe import some

Hello = Mapping[str, Any]
_WORST = (FAILED, WARNING, PASSED, NOT_RUN)
_SKEW_WARNED, _SKEW_BROKEN = 1.0, 60.0  # seconds: logs that don't fit together; credentials (munge) that are refused
_SHOWN = 4


@dataclass(frozen=True)
class Attendance:
    """Which ranks didn't do their part.

    absent    never came within `patience` seconds
    silent    came, and sent no result
    lost      their connection ended
    words     the last words of ranks that gave up before they could come
    nodes     as many hosts as were asked for, None when that was not given
    """

    absent: set[int]
    silent: set[int]
    lost: set[int]
    words: Mapping[int, str]
    nodes: int | None
    patience: float


def merge(
    here: Mapping[int, Hello], results: Mapping[int, Mapping[str, Any]], attendance: Attendance
) -> list[CheckResult]:
    """Return the results over all ranks.

    `here`: what each rank sent first (host, name, facts, clock); `results`: what it found.
    """
    found = [
        _ranks(here, attendance),
        _same(here),
        _clock(here),
        _names(here, results),
        _training(here, results, attendance.absent),
    ]
    return found + _checks(here, results)


def _result(check: str, status: str, finding: str, remedy: str | None = None, **details: Any) -> CheckResult:
    return CheckResult(f"fleet.{check}", QUICK, status, 0.0, finding, remedy, details)


def _ranks(here: Mapping[int, Hello], attendance: Attendance) -> CheckResult:
    hosts = sorted({item["host"] for item in here.values()})
    words, nodes, patience = attendance.words, attendance.nodes, attendance.patience
    absent, silent, lost = (group - set(words) for group in (attendance.absent, attendance.silent, attendance.lost))
    problems = list(words.values())
    never, broken = sorted(absent - lost), sorted((absent | silent) & lost)
    if never:
        problems.append(f"{_numbered('rank', never)} never came within {patience:.0f} s")
    if broken:
        where = sorted({here[rank]["host"] for rank in broken if rank in here})
        problems.append(f"{_numbered('rank', broken)} died{f' on {some(where, 8)}' if where else ''}")
    slow = sorted(silent - lost)
    if slow:
        where = sorted({here[rank]["host"] for rank in slow})
        problems.append(f"{_numbered('rank', slow)} on {some(where, 8)} came, but never reported what it found")
    if nodes is not None and len(hosts) != nodes and not absent and not words:
        problems.append(f"{len(here)} ranks are on {_count(len(hosts), 'host')} ({some(hosts, 8)}), {nodes} asked for")
    details = {"hosts": hosts, "never": never, "died": broken, "silent": slow, "gave_up": sorted(words)}
    if problems:
        remedy = "see the output of these ranks; srun --label or torchrun --tee 3 shows whose words are whose"
        return _result("ranks", FAILED, "; ".join(problems), remedy, **details)
    return _result("ranks", PASSED, f"{len(here)} ranks on {_count(len(hosts), 'host')}: {some(hosts, 8)}", **details)


def _same(here: Mapping[int, Hello]) -> CheckResult:
    """Compare hosts with what most of them have."""
    hosts: dict[str, Hello] = {}
    for item in here.values():
        hosts.setdefault(item["host"], item)
    mute = [host for host, item in hosts.items() if item["facts"] is None]
    if mute:
        problem = hosts[mute[0]]["problem"]
        return _result("same", FAILED, f"{some(mute, 8)}: {problem}", f"{satenv('doctor --level quick')} on that host")
    facts = {host: item["facts"] for host, item in hosts.items()}
    broken = _different({host: _flat(fact, ("versions", "hashes", "variables", "torch_cuda")) for host, fact in
                         facts.items()})  # fmt: skip
    other = _different({host: _flat(fact, ("machine",)) for host, fact in facts.items()})
    if broken:
        return _result(
            "same", FAILED, _described(broken), "create the environment again on these hosts, from the same lock:"
            f" {satenv('create')}", software=broken, machine=other,
        )  # fmt: skip
    if other:
        return _result(
            "same", WARNING, f"the same environment; but {_described(other)}", "run on hosts of one kind, or expect the"
            " slowest one's speed and the oldest driver's limits", machine=other,
        )  # fmt: skip
    versions = next(iter(facts.values()))["versions"]
    return _result("same", PASSED, f"{len(versions)} versions, file hashes and drivers are the same on all hosts")


def _flat(facts: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for part in parts:
        value = facts[part]
        flat |= value if isinstance(value, dict) else {part: value}
    return {name: ", ".join(value) if isinstance(value, list) else value for name, value in flat.items()}


def _different(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Return by host the names in which it differs from most hosts (the first ones win a tie): [its value, theirs]."""
    found: dict[str, dict[str, list[Any]]] = {}
    for name in sorted({name for values in hosts.values() for name in values}):
        common = Counter(values.get(name) for values in hosts.values()).most_common(1)[0][0]
        for host, values in hosts.items():
            if values.get(name) != common:
                found.setdefault(host, {})[name] = [values.get(name), common]
    return found


def _described(differences: Mapping[str, Mapping[str, list[Any]]]) -> str:
    parts = []
    for host, names in differences.items():
        shown = [f"{name} {_short(own)} (others: {_short(common)})" for name, (own, common) in names.items()]
        parts.append(f"{host} has {some(shown, _SHOWN)}")
    return "; ".join(parts)


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # a SHA-256


def _clock(here: Mapping[int, Hello]) -> CheckResult:
    skews = {item["host"]: item["clock"] for item in here.values()}
    host = max(skews, key=lambda name: abs(skews[name]))
    worst = abs(skews[host])
    if worst < _SKEW_WARNED:
        return _result("clock", PASSED, f"all clocks within {worst:.3f} s of rank 0's", skews=skews)
    way = "ahead of" if skews[host] > 0 else "behind"
    status = FAILED if worst >= _SKEW_BROKEN else WARNING
    return _result(
        "clock", status, f"the clock of {host} is {worst:.1f} s {way} rank 0's",
        "have the time service fixed there: chronyc tracking, or timedatectl", skews=skews,
    )  # fmt: skip


def _names(here: Mapping[int, Hello], results: Mapping[int, Mapping[str, Any]]) -> CheckResult:
    unknown = {here[rank]["host"]: item["unknown"] for rank, item in results.items() if item["unknown"]}
    if unknown:
        host, names = next(iter(unknown.items()))
        return _result(
            "names", FAILED, f"{host} doesn't find {some(names, 8)}" +
            (f"; nor do {len(unknown) - 1} more hosts find all" if unknown.keys() - {host} else ""),
            "correct DNS or /etc/hosts on that host: NCCL and torchrun connect by name", unknown=unknown,
        )  # fmt: skip
    nodes = {here[rank]["host"]: item["unknown_nodes"] for rank, item in results.items() if item["unknown_nodes"]}
    if nodes:
        host, names = next(iter(nodes.items()))
        finding = f"{host} doesn't find {some(names, 8)}, as Slurm calls the nodes"
        if all(item["addressed"] for item in results.values()):
            return _result(
                "names", PASSED, f"{finding}; this job has MASTER_ADDR, which leads to rank 0", unknown=nodes
            )
        return _result(
            "names", WARNING, f"{finding}; by address it works",
            "in job scripts, name the first node by its address: export MASTER_ADDR=… (scontrol show node tells it)",
            unknown=nodes,
        )  # fmt: skip
    return _result("names", PASSED, "every host finds every other by its name")


def _training(here: Mapping[int, Hello], results: Mapping[int, Mapping[str, Any]], absent: set[int]) -> CheckResult:
    if absent:
        return _result("training", NOT_RUN, "not run: not all ranks came")
    answers = {rank: item["training"] for rank, item in sorted(results.items())}
    bad = {rank: answer for rank, answer in answers.items() if answer["status"] != PASSED}
    if bad:
        # a rank whose peer died says so at length; the one that died says why
        rank = min(bad, key=lambda number: ("Connection closed by peer" in bad[number]["finding"], number))
        answer = bad[rank]
        status = NOT_RUN if {item["status"] for item in bad.values()} == {NOT_RUN} else FAILED
        where = "" if status == NOT_RUN else f"rank {rank} on {here[rank]['host']}: "
        return _result("training", status, where + answer["finding"], answer["remedy"], **answer["details"])
    details = [answer["details"] for answer in answers.values()]
    weights = Counter(item["digest"] for item in details)
    if len(weights) > 1:
        common = weights.most_common(1)[0][0]
        odd = [rank for rank, answer in answers.items() if answer["details"]["digest"] != common]
        return _result("training", FAILED, f"after training together, {_numbered('rank', odd)} has other weights")
    losses = details[0]["losses"]
    how = "NCCL" if details[0]["device"] == "cuda" else "gloo"
    if losses[-1] >= losses[0]:
        return _result("training", FAILED, f"training together, the loss doesn't go down: {losses}", losses=losses)
    seconds = max(answer["seconds"] for answer in answers.values())
    return CheckResult(
        "fleet.training", QUICK, PASSED, seconds,
        f"{len(answers)} ranks trained {len(losses)} ZeRO-2 steps together with {how}: loss {losses[0]:.4f} to"
        f" {losses[-1]:.4f}, the same weights in all", None, {"losses": losses},
    )  # fmt: skip


def _checks(here: Mapping[int, Hello], results: Mapping[int, Mapping[str, Any]]) -> list[CheckResult]:
    """Merge the checks that one rank of each host ran: the worst status counts, and tells whose it is."""
    by_check: dict[str, dict[str, dict[str, Any]]] = {}
    for rank, item in sorted(results.items()):
        for check in item["checks"] or []:
            by_check.setdefault(check["id"], {})[here[rank]["host"]] = check
    merged = []
    for check, hosts in by_check.items():
        status = min((answer["status"] for answer in hosts.values()), key=_WORST.index)
        same = [host for host, answer in hosts.items() if answer["status"] == status]
        first = hosts[same[0]]
        finding = first["finding"]
        if len(same) < len(hosts) or (status in (FAILED, WARNING) and len(hosts) > 1):
            whose = "all hosts" if len(same) == len(hosts) else some(same, 8)
            finding = f"{whose}: {finding}"
        details = first["details"] | ({"hosts": {h: a["status"] for h, a in hosts.items()}} if len(hosts) > 1 else {})
        seconds = max(answer["seconds"] for answer in hosts.values())
        merged.append(CheckResult(check, first["level"], status, seconds, finding, first["remedy"], details))
    return merged


def _numbered(word: str, numbers: list[int]) -> str:
    return f"{word}{'s' if len(numbers) > 1 else ''} {some([str(number) for number in numbers], 8)}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"

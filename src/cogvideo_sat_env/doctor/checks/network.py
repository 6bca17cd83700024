"""Network: the host's name, and how fast the GPUs of one machine reach each other."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from . import _ranks
from ._probe import ProbeOutcome, ProbeRequest, failed, not_run, passed, warning

_BYTES = 256 * 2**20  # of one transfer: large enough for bandwidth, not latency, to count
_ROUNDS = 10
# Share of the link's nominal bandwidth below which something is wrong. Copies reach 80 to 90 % of it, all-reduce of
# NCCL 60 to 80 %; a cable or a slot at half its width gives 50 % and less.
_COPY, _REDUCE = 0.6, 0.45
_LIMIT = 200.0


def hostname(request: ProbeRequest) -> ProbeOutcome:
    """The host's own name leads to an address, and that address back to the name: torchrun and NCCL rely on it."""
    name = socket.gethostname()
    try:
        addresses = addresses_of(name)
    except OSError as error:
        return warning(
            f"the host's name {name} has no address ({error}): nodes can't find each other, torchrun waits long",
            f"add it to the DNS, or as root: echo '127.0.1.1 {name}' >> /etc/hosts (one machine only)", name=name,
        )  # fmt: skip
    details: dict[str, Any] = {"name": name, "addresses": addresses}
    outside = [address for address in addresses if not is_loopback(address)]
    if not outside:
        return passed(f"{name} is {', '.join(addresses)}: enough for one machine, not for several", **details)
    back = {address: name_of(address) for address in outside}
    if not any(same_host(found, name) for found in back.values()):
        shown = ", ".join(f"{address} is {found or 'nobody'}" for address, found in back.items())
        return warning(
            f"{name} is {', '.join(outside)}, but not the other way round: {shown}",
            "several nodes only: have the reverse DNS entry fixed, or name hosts by address (MASTER_ADDR)", **details,
        )  # fmt: skip
    return passed(f"{name} is {', '.join(outside)}, and the other way round", **details)


def interfaces(request: ProbeRequest) -> ProbeOutcome:
    """The network interfaces that the user's variables name for gloo and NCCL exist."""
    there = [name for _, name in socket.if_nameindex()]
    user = request.inputs["user"]
    problems, remedies = [], []
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        value = user.get(variable)
        if value and not fits(value, there, exactly=variable.startswith("GLOO")):
            problems.append(f"{variable}={value} names no interface of this machine ({', '.join(there)})")
            remedies.append(f"unset {variable}")
    if problems:
        return failed("; ".join(problems), "; ".join(remedies), interfaces=there)
    named = [f"{name}={user[name]}" for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if user.get(name)]
    return passed(f"interfaces {', '.join(there)}{'; ' if named else ''}{', '.join(named)}", interfaces=there)


def fits(value: str, there: list[str], exactly: bool) -> bool:
    """Return whether an interface is left by a list of names (gloo) or NCCL's: "=" exact names, "^" all but these."""
    without, value = value.startswith("^"), value.removeprefix("^")
    exactly, names = exactly or value.startswith("="), [name for name in value.removeprefix("=").split(",") if name]
    if exactly and not without:  # gloo takes one of its list in turn: each must be there
        return all(name.partition(":")[0] in there for name in names)
    fitting = [name for name in there if any(name == one or (not exactly and name.startswith(one)) for one in names)]
    return len(fitting) < len(there) if without else bool(fitting)


def addresses_of(name: str) -> list[str]:
    """Return the addresses of a host's name. Raises OSError when there are none."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def name_of(address: str) -> str | None:
    """Return the name of an address, or None."""
    try:
        return socket.gethostbyaddr(address)[0]
    except OSError:
        return None


def same_host(one: str | None, other: str) -> bool:
    """True when two names mean one host: the first parts are equal."""
    return one is not None and one.partition(".")[0].lower() == other.partition(".")[0].lower()


def is_loopback(address: str) -> bool:
    """True for an address that only this machine itself can use."""
    return address.startswith("127.") or address == "::1"


def p2p(request: ProbeRequest) -> ProbeOutcome:
    """Copy from the first GPU to each other one; compare with the nominal bandwidth of the link between them."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return not_run("not run: one GPU only")
    speeds, indirect = {}, []
    source = torch.zeros(_BYTES, dtype=torch.uint8, device="cuda:0")
    for other in range(1, count):
        if not torch.cuda.can_device_access_peer(0, other):
            indirect.append(other)
        target = torch.empty(_BYTES, dtype=torch.uint8, device=f"cuda:{other}")
        target.copy_(source)
        _wait(torch, count)
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            target.copy_(source, non_blocking=True)
        _wait(torch, count)
        speeds[str(other)] = _ROUNDS * _BYTES / (time.perf_counter() - start) / 1e9
    return judge_copies(speeds, indirect, nominal(request.inputs["links"]))


def judge_copies(speeds: dict[str, float], indirect: list[int], link: tuple[str, float] | None) -> ProbeOutcome:
    """Return the outcome for copies from GPU 0: GB/s by target, targets without peer access, the link."""
    worst = min(speeds, key=lambda other: speeds[other])
    summary = f"copies from GPU 0: {min(speeds.values()):.1f} to {max(speeds.values()):.1f} GB/s"
    if link is not None:
        summary += f", {link[0]} has {link[1]:.0f}"
    details = {"gigabytes_per_second": speeds, "without_peer_access": indirect, "link": link}
    if indirect:
        return warning(
            f"GPU 0 has no peer access to GPU {', '.join(map(str, indirect))}: data goes through the host's memory;"
            f" {summary}",
            "nvidia-smi topo -m; in virtual machines and containers: IOMMU and ACS off, GPUs not isolated", **details,
        )  # fmt: skip
    if link is not None and speeds[worst] < _COPY * link[1]:
        return warning(f"GPU 0 to {worst} is slow: {summary}", _SLOW, **details)
    return passed(summary, **details)


def nccl(request: ProbeRequest) -> ProbeOutcome:
    """All-reduce over all GPUs of this machine with NCCL: right sums, and bus bandwidth near the link's nominal."""
    count = len(request.inputs["gpu"]["gpus"])
    if count < 2:
        return not_run("not run: one GPU only")
    ranks = _ranks.launch(request, "network", "one_of_nccl", count, _LIMIT)
    if ranks.problem is not None:
        return ranks.problem
    seconds = max(outcome.details["seconds"] for outcome in ranks.outcomes)
    return judge_reduction(count, seconds, nominal(request.inputs["links"]))


def judge_reduction(count: int, seconds: float, link: tuple[str, float] | None) -> ProbeOutcome:
    """Return the outcome for an all-reduce of _BYTES over `count` GPUs in `seconds`.

    Bus bandwidth as NVIDIA's nccl-tests define it: 2 (n - 1) / n times the bytes by the time, what the link carries.
    """
    bandwidth = 2 * (count - 1) / count * _BYTES / seconds / 1e9
    summary = f"NCCL all-reduce over {count} GPUs: {bandwidth:.1f} GB/s bus bandwidth"
    if link is not None:
        summary += f", {link[0]} has {link[1]:.0f}"
        if bandwidth < _REDUCE * link[1]:
            return warning(summary, _SLOW, bandwidth=bandwidth, link=link)
    return passed(summary, bandwidth=bandwidth, link=link)


def one_of_nccl(request: ProbeRequest) -> ProbeOutcome:
    """Reduce as one rank of network.nccl."""
    import torch

    device = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl")
    ranks = torch.distributed.get_world_size()
    values = torch.full((_BYTES // 4,), float(torch.distributed.get_rank() + 1), device=f"cuda:{device}")
    torch.distributed.all_reduce(values)
    expected = ranks * (ranks + 1) / 2
    if not bool((values == expected).all()):
        return failed(f"NCCL's sum over {ranks} GPUs is {float(values[0])}, expected {expected}", _NCCL)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(_ROUNDS):
        torch.distributed.all_reduce(values)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / _ROUNDS
    torch.distributed.destroy_process_group()
    return passed("reduced", seconds=seconds)


def nominal(links: list[dict[str, Any]]) -> tuple[str, float] | None:
    """Return name and GB/s a direction of the slowest GPU's link (Hardware.links as dicts), None when not known."""
    if not links:
        return None
    if all(link["nvlink"] > 0 for link in links):
        return "NVLink", min(link["nvlink"] for link in links)
    slots = [(link["pcie_generation"], link["pcie_lanes"]) for link in links]
    if any(generation == 0 or lanes == 0 for generation, lanes in slots):
        return None
    generation, lanes = min(slots, key=lambda slot: pcie(*slot))
    return f"PCI Express {generation} x{lanes}", pcie(generation, lanes)


def pcie(generation: int, lanes: int) -> float:
    """Return GB/s a direction of PCI Express: 2.5 GT/s, doubled by generation (3: 8); 8b/10b, from 3 on 128b/130b."""
    transfers = {1: 2.5, 2: 5.0}.get(generation, 8.0 * 2 ** (generation - 3))
    return transfers * (0.8 if generation < 3 else 128 / 130) / 8 * lanes


def _wait(torch: Any, count: int) -> None:
    for device in range(count):
        torch.cuda.synchronize(device)


_SLOW = "nvidia-smi topo -m and nvidia-smi nvlink --status show the links; is another job running on these GPUs?"
_NCCL = "NCCL_DEBUG=INFO shows the way that NCCL takes; try NCCL_P2P_DISABLE=1"

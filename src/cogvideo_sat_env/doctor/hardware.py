"""Facts about the machine's GPUs, behind a protocol so that tests can play machines that we don't have."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Protocol

_QUERY = "index,name,memory.total,compute_cap,driver_version"
_SLOTS = "index,pcie.link.gen.max,pcie.link.width.max"


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; memory in MiB, compute capability as "9.0" (empty when not known)."""

    index: int
    name: str
    memory_mib: int
    compute_capability: str


@dataclass(frozen=True)
class GpuFacts:
    """The NVIDIA driver's version (None: no driver), its GPUs, and what went wrong when asking, in one line."""

    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Link:
    """How one GPU is joined to the others.

    nvlink: the sum of its active NVLinks in GB/s a direction (0: none). pcie_generation and pcie_lanes are the most
    that GPU and slot can; 0 when not known.
    """

    index: int
    nvlink: float
    pcie_generation: int
    pcie_lanes: int


class Hardware(Protocol):
    """Where the doctor asks about hardware."""

    def gpu_facts(self) -> GpuFacts:
        """Return the driver and its GPUs; never raises for a machine without them."""
        ...

    def links(self) -> tuple[Link, ...]:
        """Return each GPU's links; empty when that can't be known. Asked only where there are GPUs."""
        ...


class NvidiaSmi:
    """The real machine: nvidia-smi, and the kernel module's version file where nvidia-smi is missing."""

    def __init__(self, program: str | None = None, version_file: Path = Path("/proc/driver/nvidia/version")) -> None:
        self._program = program or which("nvidia-smi")
        self._version_file = version_file

    def gpu_facts(self) -> GpuFacts:
        """Ask nvidia-smi (30 s at most)."""
        if self._program is None:
            driver = self._kernel_driver()
            problem = f"driver {driver} is loaded, but nvidia-smi is not on PATH" if driver else None
            return GpuFacts(driver, (), problem)
        command = [self._program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except subprocess.TimeoutExpired:
            return GpuFacts(self._kernel_driver(), (), "nvidia-smi doesn't answer within 30 s")
        except OSError as error:
            return GpuFacts(self._kernel_driver(), (), f"nvidia-smi can't be started: {error}")
        if done.returncode != 0:
            output = " ".join((done.stdout + " " + done.stderr).split())
            if "No devices were found" in output:
                return GpuFacts(self._kernel_driver())
            return GpuFacts(self._kernel_driver(), (), f"nvidia-smi fails ({done.returncode}): {output[:200]}")
        return parse_query(done.stdout)

    def links(self) -> tuple[Link, ...]:
        """Ask nvidia-smi (30 s at most for each of two questions)."""
        slots = self._ask(f"--query-gpu={_SLOTS}", "--format=csv,noheader,nounits")
        return parse_links(slots, self._ask("nvlink", "--status"))

    def _ask(self, *arguments: str) -> str:
        """Return nvidia-smi's answer; nothing when it has none: older ones don't know every question."""
        if self._program is None:
            return ""
        try:
            done = subprocess.run([self._program, *arguments], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""

    def _kernel_driver(self) -> str | None:
        try:
            text = self._version_file.read_text(encoding="utf-8", errors="replace")
        except OSError:  # no NVIDIA kernel module
            return None
        found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
        return found.group(1) if found else None


def parse_query(text: str) -> GpuFacts:
    """Read nvidia-smi's CSV answer to the query of this module. Lines of another shape become the `problem`."""
    gpus, driver, odd = [], None, []
    for line in filter(str.strip, text.splitlines()):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5 or not fields[0].isdigit():
            odd.append(line.strip())
            continue
        memory = int(float(fields[2])) if re.fullmatch(r"[\d.]+", fields[2]) else 0  # "[N/A]" on unified memory
        capability = fields[3] if re.fullmatch(r"\d+\.\d+", fields[3]) else ""
        gpus.append(Gpu(int(fields[0]), fields[1], memory, capability))
        driver = fields[4]
    return GpuFacts(driver, tuple(gpus), f"nvidia-smi printed: {odd[0][:200]}" if odd else None)


def parse_links(slots: str, nvlinks: str) -> tuple[Link, ...]:
    """Read nvidia-smi's answers: CSV of index, PCI Express generation and lanes; and `nvlink --status`."""
    speeds: dict[int, float] = {}
    gpu = -1
    for line in nvlinks.splitlines():
        head = re.match(r"GPU (\d+):", line)
        if head:
            gpu = int(head.group(1))
        speed = re.match(r"\s+Link \d+: ([\d.]+) GB/s", line)
        if speed:
            speeds[gpu] = speeds.get(gpu, 0.0) + float(speed.group(1))
    found = []
    for line in slots.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and fields[0].isdigit():
            generation, lanes = (int(field) if field.isdigit() else 0 for field in fields[1:])
            found.append(Link(int(fields[0]), speeds.get(int(fields[0]), 0.0), generation, lanes))
    return tuple(found)

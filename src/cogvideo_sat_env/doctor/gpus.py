"""Facts about the machine's GPUs, behind a protocol so that tests can play machines that we don't have."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which
from typing import Protocol

from cogvideo_sat_env.doctor.children import Child, run_child

_QUERY = "index,name,memory.total,compute_cap,driver_version"
_SLOTS = "index,pcie.link.gen.max,pcie.link.width.max"
# What each is asked, in a process of its own; prints [driver version or null, [[name, MiB, compute capability], …]].
_ASK = {
    "libcuda.so.1": """
import ctypes, json, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit(1)
if cuda.cuInit(0):
    sys.exit(1)
count, devices = ctypes.c_int(), []
cuda.cuDeviceGetCount(ctypes.byref(count))
for index in range(count.value):
    name, size, major, minor = ctypes.create_string_buffer(96), ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    device = ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, 96, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    devices.append([name.value.decode(), size.value >> 20, f"{major.value}.{minor.value}"])
print(json.dumps([None, devices]))
""",
    "libnvidia-ml.so.1": """
import ctypes, json, sys
try:
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
except OSError:
    sys.exit(1)
if nvml.nvmlInit_v2():
    sys.exit(1)
version = ctypes.create_string_buffer(96)
nvml.nvmlSystemGetDriverVersion(version, 96)
print(json.dumps([version.value.decode() or None, []]))
""",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; memory in MiB, compute capability as "9.0" (empty when not known)."""

    index: int
    name: str
    memory_mib: int
    compute_capability: str


@dataclass(frozen=True)
class GpuFacts:
    """The NVIDIA driver's version (None: no driver), its GPUs, and what went wrong when asking, in one line.

    stuck: which part of the driver never answered; whoever asks it again hangs.
    """

    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    stuck: str | None = None


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
    """The real machine: nvidia-smi, the driver's own libraries, and the kernel module's version file.

    Each is asked in a child process with a limit of its own, `seconds`: a driver that is stuck hangs whoever asks it,
    and can't be killed.
    """

    def __init__(
        self,
        program: str | None = None,
        version_file: Path = Path("/proc/driver/nvidia/version"),
        environ: Mapping[str, str] | None = None,
        seconds: float = 8.0,
    ) -> None:
        self._environ = dict(os.environ if environ is None else environ)
        self._program = program or which("nvidia-smi", path=self._environ.get("PATH"))
        self._version_file = version_file
        self._seconds = seconds

    def gpu_facts(self) -> GpuFacts:
        """Ask nvidia-smi, libcuda and NVML side by side."""
        with ThreadPoolExecutor(3) as pool:
            asked = pool.submit(self._ask_program)
            libraries = [pool.submit(self._ask_library, name) for name in _ASK]
            facts = asked.result()
            answers = [library.result() for library in libraries]
        stuck = [answer.stuck for answer in answers if answer.stuck]
        cuda, nvml = answers
        if not facts.gpus and cuda.gpus:  # containers often have the libraries without the program
            facts = replace(facts, driver=facts.driver or nvml.driver, gpus=cuda.gpus, problem=None)
        if stuck:
            return replace(facts, problem="; ".join(filter(None, [*stuck, facts.problem])), stuck="; ".join(stuck))
        return facts

    def _ask_program(self) -> GpuFacts:
        if self._program is None:
            driver = self._kernel_driver()
            problem = f"driver {driver} is loaded, but nvidia-smi is not on PATH" if driver else None
            return GpuFacts(driver, (), problem)
        done = self._run(f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits")
        if done.problem:
            return GpuFacts(self._kernel_driver(), (), done.problem)
        if done.code != 0:
            output = " ".join((done.stdout + " " + done.stderr).split())
            if "No devices were found" in output:
                return GpuFacts(self._kernel_driver())
            return GpuFacts(self._kernel_driver(), (), f"nvidia-smi fails ({done.code}): {output[:200]}")
        return parse_query(done.stdout)

    def _ask_library(self, name: str) -> GpuFacts:
        """Ask a library of the driver; nothing when it isn't there or has no device, which is no problem."""
        command = [sys.executable, "-I", "-S", "-c", _ASK[name]]
        done = run_child(command, self._seconds, self._environ)
        if done.code is None:
            return GpuFacts(stuck=f"the GPU driver is stuck: {name} doesn't answer within {self._seconds:.0f} s")
        lines = done.stdout.strip().splitlines()
        if done.code != 0 or not lines:
            return GpuFacts()
        driver, devices = json.loads(lines[-1])
        gpus = tuple(Gpu(index, *device) for index, device in enumerate(devices))
        return GpuFacts(driver, gpus)

    def links(self) -> tuple[Link, ...]:
        """Ask nvidia-smi twice; older ones don't know every question."""
        if self._program is None:
            return ()
        slots = self._run(f"--query-gpu={_SLOTS}", "--format=csv,noheader,nounits")
        nvlinks = self._run("nvlink", "--status")
        return parse_links(*(done.stdout if done.code == 0 else "" for done in (slots, nvlinks)))

    def _run(self, *arguments: str) -> Child:
        assert self._program is not None
        return run_child([self._program, *arguments], self._seconds, self._environ)

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

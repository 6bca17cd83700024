"""Storage: what the environment and its caches lie on, how much room is left, and what an import costs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ._folders import why_not_run, why_not_written
from ._mounts import MOUNTINFO, Mount, existing, kind_of
from ._probe import ProbeOutcome, ProbeRequest, failed, last_error, not_run, passed, run_joined, warning

_GIB = 2**30
# Room that is enough for certain, by what is written there: bytes, inodes. Measured: DeepSpeed's and SAT's extensions
# take 0.3 GiB. With less than _NONE nothing can be written.
_NONE = (64 * 2**20, 100)
_LEAST = {"TORCH_EXTENSIONS_DIR": (_GIB, 1000), "TRITON_CACHE_DIR": (_GIB // 2, 1000), "TMPDIR": (_GIB, 1000)}
# Through it the workers of a DataLoader hand over their samples: one of CogVideoX (49 frames of 480x720, float32) has
# 203 MB, and each of several workers keeps two ready. Containers have 64 MB of it unless given otherwise.
_HANDOVER, _HANDOVER_LEAST = "/dev/shm", _GIB
# Caches that every node has to have for itself; HF_HOME may be shared: it is written once.
_PER_NODE = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "TMPDIR")
_SLOW = 60.0  # seconds: parallel file systems take this long for the small files of an import (facts of EESSI)
_LIMIT = 300.0

_IMPORT = """
import json, sys, time
start = time.perf_counter()
__import__(sys.argv[1])
seconds = time.perf_counter() - start
modules = list(sys.modules.values())
files = {getattr(module, name, None) for module in modules for name in ("__file__", "__cached__")}
files = {name for name in files if isinstance(name, str)}
try:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        files |= {line.split(None, 5)[5].rstrip("\\n") for line in maps if ".so" in line and line.count(" ") >= 5}
except OSError:
    pass
json.dump({"seconds": seconds, "files": sorted(files)}, open(sys.argv[2], "w"))
"""


def space(request: ProbeRequest) -> ProbeOutcome:
    """There is room, in bytes and in inodes, where a run writes."""
    summary: dict[str, list[str]] = {}
    short, none = [], False
    places: dict[str, Any] = {}
    closed = []
    for name, path in _places(request).items():
        mount = _mount(request, path)
        problem = None if name in _ELSEWHERE else why_not_written(path)
        if problem:
            closed.append((name, f"{name} ({path}) can't be written: {problem}"))
        elif name == "TRITON_CACHE_DIR" and (problem := why_not_run(path)):
            closed.append((name, f"no compiled kernel can be loaded from {name} ({path}): {problem}"))
        try:
            found = os.statvfs(existing(path))
        except OSError as error:
            closed.append((name, f"{name} ({path}) can't be examined: {error.strerror}"))
            continue
        free, total = found.f_bavail * found.f_frsize, found.f_files
        inodes = found.f_favail if total else None  # btrfs and some network file systems don't count
        places[name] = {"path": str(path), "type": mount.kind if mount else None, "free": free, "free_inodes": inodes}
        on = f" on {mount.kind} ({mount.point})" if mount else ""
        room = f"{free / _GIB:,.0f} GiB{'' if inodes is None else f' and {_short(inodes)} files'} free{on}"
        summary.setdefault(room, []).append(name)
        least, least_inodes = _LEAST.get(name, (0, 0))
        if free < least:
            short.append(f"{name} ({path}) has {free / _GIB:.1f} GiB left, {least / _GIB:g} are enough for certain")
            none = none or free < _NONE[0]
        if inodes is not None and inodes < least_inodes:
            short.append(f"{name} ({path}) has room for {inodes} files, {least_inodes} are enough for certain")
            none = none or inodes < _NONE[1]
    if closed:
        return _closed(request, closed, places)
    handover = _handover(request)
    if handover is not None:
        places[_HANDOVER] = {"path": _HANDOVER, "free": handover}
    if short:
        names = " ".join(name for name in places if any(text.startswith(f"{name} ") for text in short))
        judge = failed if none else warning
        return judge("; ".join(short), f"free some, or name another place in {names}", places=places)
    if handover is not None and handover < _HANDOVER_LEAST:
        return warning(
            f"{_HANDOVER} has {handover / _GIB:.2f} GiB: workers that load clips die with a bus error, or 'exited"
            " unexpectedly'",
            "in a container: --shm-size=16g (or --ipc=host); as root: mount -o remount,size=16G /dev/shm",
            places=places,
        )
    return passed("; ".join(f"{room}: {', '.join(names)}" for room, names in summary.items()), places=places)


# Not written by a run (the prefix), or another check's (toolchain.extensions-dir).
_ELSEWHERE = ("prefix", "TORCH_EXTENSIONS_DIR")


def _closed(request: ProbeRequest, closed: list[tuple[str, str]], places: dict[str, Any]) -> ProbeOutcome:
    """Return the outcome for caches that can't be written; what is downloaded already can be read all the same."""
    offline = request.inputs["user"].get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    bad = [item for item in closed if not (item[0] == "HF_HOME" and offline)]
    if not bad:
        return passed(f"{closed[0][1]}, and HF_HUB_OFFLINE is set: what is there is read", places=places)
    fatal = any(name == "TRITON_CACHE_DIR" for name, _ in bad) and bool(request.inputs["gpu"]["gpus"])
    remedy = "; ".join(f'export {name}="/tmp/{name.lower().replace("_", "-")}-$(id -u)"' for name, _ in bad)
    return (failed if fatal else warning)("; ".join(text for _, text in bad), remedy, places=places)


def shared(request: ProbeRequest) -> ProbeOutcome:
    """Caches of compiled code are each node's own; the environment itself is reported."""
    prefix = Path(request.inputs["prefix"])
    mount = _mount(request, prefix)
    if mount is None:
        return not_run("not run: this system doesn't tell what its folders are mounted from")
    places = {name: (path, _mount(request, path)) for name, path in _places(request).items()}
    bad = [(name, path, found) for name, (path, found) in places.items()
           if name in _PER_NODE and found is not None and found.is_shared]  # fmt: skip
    details = {name: {"path": str(path), "type": found and found.kind, "shared": found and found.is_shared}
               for name, (path, found) in places.items()}  # fmt: skip
    where = f"the environment is on {mount.kind}"
    if bad:
        text = "; ".join(f"{name} ({path}) is on {found.kind}" for name, path, found in bad)
        remedy = "; ".join(f'export {name}="/tmp/$USER-{name.lower().replace("_", "-")}"' for name, _, _ in bad)
        return warning(f"{text}: nodes write over each other's files, and wait for each other", remedy, places=details)
    if mount.is_shared:
        where += ", which other machines share: imports are slow there (storage.import-time measures it)"
    elif mount.is_image:
        where += ": one file, quick to import from"
    return passed(f"{where}; caches of compiled code are on this machine", places=details)


def import_time(request: ProbeRequest) -> ProbeOutcome:
    """Measure how long `import sat` takes, from memory and from the file system."""
    module = "torch" if request.data_only else "sat"
    warm, files = _import(module, request.workdir)
    cold, dropped = None, _drop(files)
    if dropped:
        cold, _ = _import(module, request.workdir)
    details = {"module": module, "warm": round(warm, 2), "cold": None if cold is None else round(cold, 2),
               "files": len(files)}  # fmt: skip
    text = f"import {module} opens {len(files):,} modules and libraries: {warm:.1f} s from memory"
    if cold is None:
        return passed(f"{text}; from the file system not measured here", **details)
    text += f", {cold:.1f} s after the system was asked to forget them"
    if cold > _SLOW:
        return warning(
            f"{text}: every process of every job waits so long",
            "put the environment on a local disk, or into one file (squashfs)", **details,
        )  # fmt: skip
    return passed(text, **details)


def _places(request: ProbeRequest) -> dict[str, Path]:
    """Return the folders by the variable that names them, as a run of this user would have them."""
    sets = request.inputs["activation"]["sets"]
    extensions = sets.get("TORCH_EXTENSIONS_DIR") or os.environ.get("TORCH_EXTENSIONS_DIR")
    default = Path(os.path.expanduser("~"), ".cache", "torch_extensions")
    found = {"prefix": Path(request.inputs["prefix"]), "TORCH_EXTENSIONS_DIR": Path(extensions or default)}
    return found | {name: Path(path) for name, path in request.inputs["places"].items()}


def _handover(request: ProbeRequest) -> int | None:
    """Return the bytes of shared memory that are free, None where it isn't a folder or nothing is trained."""
    if request.data_only or not os.path.isdir(_HANDOVER):
        return None
    found = os.statvfs(_HANDOVER)
    return found.f_bavail * found.f_frsize


def _mount(request: ProbeRequest, path: Path) -> Mount | None:
    return kind_of(path, Path(request.options.get("storage.mountinfo", MOUNTINFO)))


def _short(count: int) -> str:
    return f"{count / 1e6:.0f} million" if count >= 1e7 else f"{count:,}"


def _import(module: str, folder: Path) -> tuple[float, list[str]]:
    """Import in a new process; return the seconds, the start of Python left out, and the files that it opened."""
    answer = folder / "import.json"
    done = run_joined([sys.executable, "-c", _IMPORT, module, str(answer)], _LIMIT)
    if done.returncode or not answer.is_file():
        print(done.stdout[-4000:])
        raise RuntimeError(f"import {module} fails: {last_error(done.stdout)}")
    found = json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink()
    return float(found["seconds"]), list(found["files"])


def _drop(files: list[str]) -> int:
    """Ask the kernel to forget what it has in memory of `files`; return how many it took notice of."""
    if not hasattr(os, "posix_fadvise"):
        return 0
    count = 0
    for name in files:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # not a file: built in, or in an archive
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            count += 1
        finally:
            os.close(descriptor)
    return count

"""Which shared libraries this process has loaded, and from where (Linux: /proc/self/maps)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

MAPS = Path("/proc/self/maps")
# What belongs to the environment: another copy in its place breaks CUDA or the ABI.
_OWN = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|nccl|cusparse|cusparseLt|cusolver|cufft|curand|nvrtc|nvJitLink|cupti|torch\w*"
    r"|c10\w*|avcodec|avformat|avutil|swscale)(-[0-9a-f]{8})?(\.[0-9a-f]{8})?\.so"
)
_OPENMP = {"gomp": "GNU", "iomp5": "Intel", "omp": "LLVM"}
# auditwheel gives a vendored library a name of its own, so that it can't take another's place
_VENDORED = re.compile(r"(-[0-9a-f]{8}|\.[0-9a-f]{8})\.so|\.so.*-[0-9a-f]{8}")


def loaded(maps: Path = MAPS) -> list[Path] | None:
    """Return the shared libraries in this process, or None where the system doesn't tell."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found = {line.split(None, 5)[5] for line in lines if ".so" in line and line.count(" ") >= 5}
    return sorted(Path(name.removesuffix(" (deleted)")) for name in found if name.startswith("/"))


def openmp(libraries: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """Return the OpenMP runtimes by their maker, and the vendored copies, which harm nobody."""
    runtimes: dict[str, str] = {}
    vendored = []
    for path in libraries:
        found = re.match(r"lib(gomp|iomp5|omp)\b", path.name)
        if found is None:
            continue
        if _VENDORED.search(path.name) or path.parent.name.endswith(".libs"):
            vendored.append(str(path))
        else:
            runtimes.setdefault(_OPENMP[found.group(1)], str(path))
    return runtimes, vendored


def foreign(libraries: Iterable[Path], homes: Iterable[Path]) -> list[Path]:
    """Return CUDA, torch and FFmpeg libraries that lie in none of the folders `homes` (all paths resolved)."""
    places = list(homes)
    return [
        path for path in libraries if _OWN.match(path.name) and not any(path.is_relative_to(place) for place in places)
    ]


def homes(prefix: Path, sites: Iterable[Path]) -> list[Path]:
    """Return where the environment's libraries may really lie: the prefix, and what its packages link to."""
    found = {prefix.resolve()}
    for site in sites:
        found |= {entry.resolve() for entry in site.iterdir() if entry.is_symlink()} if site.is_dir() else set()
    for folder in (prefix / "lib", prefix / "bin"):
        if folder.is_dir():  # conda's soft links into its package cache
            found |= {entry.resolve() for entry in folder.iterdir() if entry.is_symlink()}
    return sorted(found)

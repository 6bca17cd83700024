"""Where the bytes come from: the lock's channels, a mirror of them, or wheels of a package index."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from cogvideo_sat_env import __version__
from cogvideo_sat_env.errors import InputError
from cogvideo_sat_env.fetch.redact import redact
from cogvideo_sat_env.lock.model import CondaArtefact

KINDS = ("auto", "channel", "mirror", "wheels")
PROBE_SECONDS = 10  # a channel that takes longer to say that a file is there doesn't answer


@dataclass(frozen=True)
class Source:
    """A kind of source; `where` is the base URL of a mirror (file:// for a folder)."""

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind}={redact(self.where)}" if self.where else self.kind  # it is shown, and kept in the receipt

    def locate(self, artefact: CondaArtefact) -> str:
        """Return the URL of an artefact in this source."""
        if self.kind == "mirror":
            return f"{self.where}/{quote(artefact.channel_path)}"
        return artefact.url

    def find_links(self) -> list[str]:
        """Return the wheelhouse that a mirror has for pip's --find-links; none where the index is to be asked."""
        if self.kind != "mirror":
            return []
        page = f"{self.where}/wheelhouse/index.html"
        if self.where.startswith("file:"):
            path = Path(url2pathname(urlsplit(page).path))
            return [str(path.parent)] if path.is_file() else []
        return [page] if why_unreachable(page) is None else []


def parse_source(text: str) -> Source:
    """Read `auto`, `channel`, `mirror=URL-or-DIR` or `wheels`. Raises InputError naming what is expected."""
    kind, equals, where = text.partition("=")
    if kind not in KINDS or bool(equals) != (kind == "mirror") or (equals and not where):
        raise InputError(
            f"--source {redact(text)!r}: expected auto, channel, wheels or mirror=WHERE",
            "e.g. --source mirror=/data/mirror or --source mirror=https://mirror.example.org/conda",
        )
    if kind == "mirror" and "://" not in where:
        folder = Path(where).expanduser().absolute()
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected a mirror: CHANNEL/SUBDIR/FILE below it", None)
        where = folder.as_uri()
    return Source(kind, where.rstrip("/"))


def why_unreachable(url: str) -> str | None:
    """Ask for the head of `url`, or its first byte; return None when it is there, else the reason in words.

    Proxies are taken from the environment as by conda.
    """
    reason = _ask(url, "HEAD", {})
    if reason and reason.startswith(("answers 405", "answers 501", "answers 403")):  # some stores allow only GET
        reason = _ask(url, "GET", {"Range": "bytes=0-0"})
    return reason


def _ask(url: str, method: str, headers: dict[str, str]) -> str | None:
    request = urllib.request.Request(url, method=method, headers={"User-Agent": f"satenv/{__version__}", **headers})
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"answers {error.code} {error.reason}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason or type(error).__name__)


def guess_device(platform: str) -> tuple[str, str]:
    """Return the device that `--variant auto` means on this machine, and the reason in words."""
    if not platform.startswith("linux"):
        return "cpu", f"{platform} has no CUDA"
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists():
        return "cuda", "this machine has an NVIDIA driver"
    if Path("/etc/slurm").is_dir() or any(name.startswith("SLURM_") for name in os.environ) or shutil.which("srun"):
        return "cuda", "this is a node of a Slurm cluster, whose compute nodes are taken to have GPUs"
    return "cpu", "this machine has no NVIDIA driver; for one that has, say --variant cuda"

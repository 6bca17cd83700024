"""Where the bytes come from: the lock's channels, a mirror of them, or wheels of a package index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from cogvideo_sat_env.errors import InputError
from cogvideo_sat_env.fetch.redact import redact
from cogvideo_sat_env.lock.model import CondaArtefact

if TYPE_CHECKING:
    from cogvideo_sat_env.fetch.session import Sessions

INDEX = "index"  # among the places of pip files: the package index that pip is configured with
KINDS = ("auto", "channel", "mirror", "wheels")
PROBE_SECONDS = 10  # a channel that takes longer to say that a file is there doesn't answer


@dataclass(frozen=True)
class Source:
    """A kind of source; `where` is the base URL of a mirror (file:// for a folder). `then` are tried after it."""

    kind: str
    where: str = ""
    then: tuple[Source, ...] = ()

    def __str__(self) -> str:
        own = f"{self.kind}={redact(self.where)}" if self.where else self.kind  # shown, and kept in the receipt
        return " ".join([own, *map(str, self.then)])

    def locate(self, artefact: CondaArtefact) -> tuple[str, ...]:
        """Return the URLs of an artefact in the order to try them."""
        own = f"{self.where}/{quote(artefact.channel_path)}" if self.kind == "mirror" else artefact.url
        return (own, *(url for source in self.then for url in source.locate(artefact)))

    def find_links(self) -> list[str]:
        """Return where pip files are to be had, in this order: wheelhouses of mirrors, and INDEX for pip's index.

        Asks each mirror whether it has a wheelhouse; where none has, the index stands in.
        """
        places = []
        for source in (self, *self.then):
            if source.kind == "mirror":
                house = f"{source.where}/wheelhouse"
                places += [house] if why_unreachable(f"{house}/index.html") is None else []
            else:
                places.append(INDEX)
        return places or [INDEX]


def parse_sources(texts: Sequence[str]) -> Source:
    """Read sources in the order to try them, each as `parse_source` does; mirrors and the channel go together.

    Raises InputError naming what is expected.
    """
    sources = [parse_source(text) for text in texts]
    alone = [source for source in sources if source.kind not in ("mirror", "channel")]
    if len(sources) > 1 and alone:
        raise InputError(
            f"--source {alone[0]} goes with no other source; only mirrors and channel are tried one after the other",
            "e.g. --source mirror=/data/mirror --source mirror=https://mirror.example.org/conda --source channel",
        )
    return replace(sources[0], then=tuple(sources[1:]))


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
    elif kind == "mirror" and (not where.startswith(("http://", "https://", "file://")) or len(where.split()) != 1):
        raise InputError(
            f"--source {redact(text)!r}: expected the address of a web server", "http://, https:// or file://"
        )
    return Source(kind, where.rstrip("/"))


def why_unreachable(url: str) -> str | None:
    """Ask for the first byte of `url`; return None when it is there, else the reason in words.

    Asked as every file is: with the user's proxies, certificates and credentials, at a mirror that rattler's
    configuration names for it.
    """
    from cogvideo_sat_env.fetch.session import Sessions  # the HTTP client loads slowly

    sessions = Sessions()
    reasons = [_ask(sessions, place) for place in sessions.places(url)]
    return None if None in reasons else reasons[0]


def _ask(sessions: Sessions, url: str) -> str | None:
    import requests

    from cogvideo_sat_env.fetch.transfer import reason

    if url.startswith("file:"):
        return None if Path(url2pathname(urlsplit(url).path)).is_file() else "no such file"
    try:
        with sessions.get(url, {"Range": "bytes=0-0"}, PROBE_SECONDS, PROBE_SECONDS) as answer:
            return None if answer.ok else f"answers {answer.status_code} {answer.reason}"
    except requests.Timeout:
        return f"no answer in {PROBE_SECONDS} s"
    except (requests.RequestException, ValueError) as error:
        return reason(error)


def guess_device(platform: str) -> tuple[str, str]:
    """Return the device that `--variant auto` means on this machine, and the reason in words."""
    if not platform.startswith("linux"):
        return "cpu", f"{platform} has no CUDA"
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists():
        return "cuda", "this machine has an NVIDIA driver"
    if Path("/etc/slurm").is_dir() or any(name.startswith("SLURM_") for name in os.environ) or shutil.which("srun"):
        return "cuda", "this is a node of a Slurm cluster, whose compute nodes are taken to have GPUs"
    return "cpu", "this machine has no NVIDIA driver; for one that has, say --variant cuda"

"""Where the bytes come from: the lock's channels, a mirror of them, or wheels of a package index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.fetch.model import INDEX
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.fetch.redact import redact

if TYPE_CHECKING:
    pass

KINDS = ("auto", "channel", "mirror", "wheels")


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

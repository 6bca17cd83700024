"""Where the bytes come from: the lock's channels, a mirror of them, or wheels of a package index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from cogvideo_sat_env.base.address import Address, local_path
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.fetch.reachable import why_unreachable
from cogvideo_sat_env.fetch.wanted import INDEX

_EXAMPLE = "e.g. --source mirror=/data/mirror or --source mirror=https://mirror.example.org/conda"
_NOWHERE = Address("")
KINDS = ("auto", "channel", "mirror", "wheels")


@dataclass(frozen=True)
class Source:
    """A kind of source; `where` is the base URL of a mirror (file:// for a folder). `then` are tried after it."""

    kind: str
    where: Address = _NOWHERE
    then: tuple[Source, ...] = ()

    def __str__(self) -> str:
        own = f"{self.kind}={self.where}" if self.where else self.kind  # shown, and kept in the receipt
        return " ".join([own, *map(str, self.then)])

    def locate(self, artefact: CondaArtefact) -> tuple[Address, ...]:
        """Return the URLs of an artefact in the order to try them."""
        own = self.where / quote(artefact.channel_path) if self.kind == "mirror" else artefact.url
        return (own, *(url for source in self.then for url in source.locate(artefact)))

    def find_links(self) -> list[str]:
        """Return where pip files are to be had, in this order: wheelhouses of mirrors, and INDEX for pip's index.

        Asks each mirror whether it has a wheelhouse; where none has, the index stands in, but not for folders: who
        names nothing else wants nothing from a network.
        """
        houses = {source: source.where / "wheelhouse" for source in (self, *self.then) if source.kind == "mirror"}
        places: list[str] = []
        for source in (self, *self.then):
            if source not in houses:
                places.append(INDEX)
            elif why_unreachable(houses[source] / "index.html") is None:
                places.append(houses[source])
        is_offline = len(houses) == 1 + len(self.then) and all(house.startswith("file:") for house in houses.values())
        return places or (list(houses.values()) if is_offline else [INDEX])


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
    if kind not in KINDS or bool(equals) != (kind == "mirror") or (equals and not where.strip()):
        shown = f"{kind}={Address(where)}" if kind in KINDS and equals else str(Address(text))
        raise InputError(f"--source {shown!r}: expected auto, channel, wheels or mirror=WHERE", _EXAMPLE)
    return Source(kind, _mirror(where) if equals else _NOWHERE)


def _mirror(where: str) -> Address:
    """Return the base address of a mirror that is written as an address or a folder."""
    if "://" in where:
        address = Address(where.rstrip("/"))
        try:
            parts = urlsplit(address)
            web = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            usable = web or (parts.scheme == "file" and parts.path)
        except ValueError:  # brackets that don't match, or a port that is no number
            usable = False
        if not usable or not where.isprintable() or " " in where:
            raise InputError(f"mirror={str(address)!r}: expected the address of a web server or a folder", _EXAMPLE)
        if parts.scheme != "file":
            return address
        where = str(local_path(address))
    try:
        folder = Path(where).expanduser().absolute()
        found = folder.is_dir()
    except (RuntimeError, ValueError, OSError):  # no such user, a null byte, a name that is too long
        folder, found = Path(where), False
    if not found:
        raise InputError(f"{folder}: no such folder; expected a mirror: CHANNEL/SUBDIR/FILE below it", _EXAMPLE)
    return Address(folder.as_uri())

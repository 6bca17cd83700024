"""What stands beside an image, in IMAGE.json: its size and SHA-256, and the path that it is made for.

Python's standard library only: a node reads it before there is an environment.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError

SCHEMA = 1
ENDING = ".sqfs"


@dataclass(frozen=True)
class ImageFacts:
    """One image.

    size, sha256    of the file, in bytes and hex
    prefix          the path where it has to be seen: everything that embeds a path says this one
    release         the folder of the same release on the shared file system, "" for none
    unpacked        bytes that it takes when it is unpacked; `files` so many files
    fingerprint     of what is in it (the receipt's)
    """

    size: int
    sha256: str
    prefix: str
    release: str
    unpacked: int
    files: int
    fingerprint: str
    platform: str

    def to_json(self) -> str:
        """Return the content of IMAGE.json."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def facts_path(image: Path) -> Path:
    """Return where the facts of `image` are."""
    return image.with_name(f"{image.name}.json")


def read_facts(image: Path) -> ImageFacts:
    """Return the facts of `image`. Raises InputError for none, or for a file that says something else."""
    path = facts_path(image)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected size and SHA-256 of the image", _AGAIN) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}", _AGAIN) from error
    if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
        raise InputError(f"{path}: expected facts of an image, schema {SCHEMA}", _AGAIN)
    kinds = {name: int if kind == "int" else str for name, kind in ImageFacts.__annotations__.items()}
    for name, kind in kinds.items():
        if type(found.get(name)) is not kind:
            raise InputError(f"{path}: {name}: expected {kind.__name__}, found {found.get(name)!r}", _AGAIN)
    facts = ImageFacts(**{name: found[name] for name in kinds})
    if not re.fullmatch(r"[0-9a-f]{64}", facts.sha256) or facts.size <= 0:
        raise InputError(f"{path}: expected a size and a SHA-256, found {facts.size} and {facts.sha256!r}", _AGAIN)
    prefix = Path(facts.prefix)
    if not prefix.is_absolute() or ".." in prefix.parts or len(prefix.parts) < 3:
        raise InputError(f"{path}: prefix: expected an absolute path below a folder, found {facts.prefix!r}", _AGAIN)
    return facts


_AGAIN = "tell who deployed it: the image has to be made again"

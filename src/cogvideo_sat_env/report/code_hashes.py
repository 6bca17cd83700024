"""Hashes what bytecode does, not how it was written: run by the Python that the bytecode is for. Standard library only.

One JSON object on standard input (`prefixes`, `paths`), a list of [size, SHA-256] on standard output. Two compilations
of one source differ in the stamp of the source's time, in the path of the source, in which objects are shared (marshal
writes references by how many others hold an object) and, before Python 3.11, in the order of sets. So the code is read,
its paths are made relative to the prefix, and it is written again without references.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import marshal
import sys
from types import CodeType

_HEADER = 16  # bytes: magic number, flags, then time and size of the source, or its hash (PEP 552)
_VERSION = 2  # of marshal: the last without references


def digest(content: bytes, prefixes: list[str]) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of the normalised form of `content`, of the bytes as they are if it has none."""
    try:
        if content[:4] != importlib.util.MAGIC_NUMBER:  # another Python's, which a package ships: the same everywhere
            raise ValueError
        code = _normalised(marshal.loads(memoryview(content)[_HEADER:]), prefixes)
        checked = content[4] & 1  # by the hash of the source, which stays; the time of the source doesn't
        head = content[:16] if checked else content[:8] + bytes(4) + content[12:16]
        content = head + marshal.dumps(code, _VERSION)
    except (ValueError, EOFError, TypeError, AttributeError, IndexError):
        pass
    return len(content), hashlib.sha256(content).hexdigest()


def _normalised(code: CodeType, prefixes: list[str]) -> CodeType:
    name = code.co_filename
    for prefix in prefixes:
        if name.startswith(f"{prefix}/"):
            name = name[len(prefix) + 1 :]
            break
    constants = tuple(
        _normalised(item, prefixes) if type(item) is CodeType else _ordered(item) for item in code.co_consts
    )
    return code.replace(co_filename=name, co_consts=constants)


def _ordered(item: object) -> object:
    if type(item) is frozenset:
        return ("frozenset", *sorted(map(repr, item)))
    return tuple(map(_ordered, item)) if type(item) is tuple else item


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    found = []
    for path in request["paths"]:
        with open(path, "rb") as stream:
            found.append(digest(stream.read(), request["prefixes"]))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

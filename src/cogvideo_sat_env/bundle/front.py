"""What Python meets first in a bundle: words for a damaged one, and a check of the code before any of it runs.

`python3 FILE` looks for a zip archive at the end of FILE. Of a bundle that is cut there, it reads the first line as a
program; that line names an encoding that doesn't exist, so that Python's only words are the name. Else it runs
__main__.py: a text whose bytes have to add up, which starts Python anew without the user's settings, and then compares
the rest of the archive with its SHA-256. Whatever is wrong, nothing else of the bundle has run.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Mapping

from cogvideo_sat_env.base.timestamp import EPOCH

_NAME = "#coding:this-bundle-is-damaged-or-cut-short--copy-it-again\n"
_CHECK = """
import sys
if sys.version_info < (3, 10):
    sys.exit("satenv: this is Python %d.%d; a bundle needs Python 3.10 to 3.13" % sys.version_info[:2])
if not sys.flags.isolated and sys.executable:
    import posix
    posix.execv(sys.executable, [sys.executable, "-I"] + sys.argv)
import hashlib
try:
    with open(sys.path[0], "rb") as stream:
        stream.seek(-@REST@, 2)
        rest = stream.read()
except OSError:
    rest = b""
if hashlib.sha256(rest[:@CRC@] + rest[@CRC@ + 4:]).hexdigest() != "@SHA256@":
    if sys.stderr:
        sys.stderr.write("satenv: " + sys.path[0] + ": the bundle is damaged: this is not the program of its maker\\n"
                         "  copy the bundle again and compare its size; what is in it can't be trusted\\n")
    sys.exit(4)
from cogvideo_sat_env.bundle.start import main
sys.exit(main(sys.path[0]))
"""
_MAIN = """s=br'''%s'''
if sum(bytearray(s))!=%-9d:raise SystemExit('satenv: the bundle is damaged: copy it again')
exec(s)
"""


def first_bytes() -> bytes:
    """Return what stands before the first member: a comment, to tar."""
    record = b"56 comment=a bundle of cogvideo-sat-env: docs/airgap.md\n"
    info = tarfile.TarInfo(_NAME)
    info.type, info.size, info.mtime = tarfile.XGLTYPE, len(record), EPOCH
    return info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")


def with_main(members: Mapping[str, bytes], make: Callable[[Mapping[str, bytes]], bytes]) -> dict[str, bytes]:
    """Return the archive's members with the __main__.py that checks all of the archive that `make` will make of them.

    The archive's directory has a checksum of __main__.py itself, four bytes that are left out of the comparison.
    """
    code = _main(0, 0, "0" * 64)
    archive = make({"__main__.py": code, **members})
    start = archive.index(code) + len(code)
    crc = archive.index(b"PK\1\2", start) - start + 16
    rest = archive[start:]
    # sizes and places are those of the final archive: the code has the same length
    digest = hashlib.sha256(rest[:crc] + rest[crc + 4 :]).hexdigest()
    return {"__main__.py": _main(len(rest), crc, digest), **members}


def _main(rest: int, crc: int, digest: str) -> bytes:
    # numbers of one width, so that the length is known beforehand
    check = _CHECK.replace("@REST@", f"{rest:<9}").replace("@CRC@", f"{crc:<9}").replace("@SHA256@", digest)
    return (_MAIN % (check, sum(check.encode()))).encode()

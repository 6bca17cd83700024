"""A prefix made for a path where it is seen later, of a mounted image or in a container; the same bytes each time.

Paths are embedded in a prefix, so it isn't copied from a release but made anew from the same lock, beside the package
cache, whose files it links to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from cogvideo_sat_env.base import cache_use, diskspace
from cogvideo_sat_env.base.errors import InputError, SatenvError
from cogvideo_sat_env.base.paths import cache_dir
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.base.timestamp import EPOCH
from cogvideo_sat_env.create.create import CreateRequest
from cogvideo_sat_env.install.own_files import HISTORY, RECEIPT

CACHE = "file:///satenv-cache"  # stands for the cache of the machine that made it, which nobody has where it is seen
Make: TypeAlias = Callable[[CreateRequest], Any]  # what creates an environment: create(), or one out of a bundle
_NOWHERE = ("extracted_package_dir", "package_tarball_full_path", "link")  # of conda's records: where the cache was


@contextmanager
def made_for(seen_at: Path, make: Make, request: CreateRequest, progress: Progress) -> Iterator[Path]:
    """Have `make` make what `request` says, for the path `seen_at`; yield the folder that it is in, for the block.

    Everybody may read it, its times and records are the same each time. Raises InputError for a path that isn't
    absolute, and whatever `make` raises.
    """
    if not seen_at.is_absolute() or seen_at != Path(os.path.normpath(seen_at)) or seen_at == Path("/"):
        raise InputError(f"{seen_at}: expected an absolute path, without '..'", "name the folder where it is seen")
    with cache_use.in_use(cache_dir(), progress), scratch_folder("tree-", cache_dir() / "tmp") as scratch:
        place = scratch / "prefix"
        options = replace(request.options, seen_at=seen_at, replace=False, repair=False, keep=False)
        make(replace(request, prefix=place, place=None, name=None, doctor=False, options=options))
        with diskspace.watch(scratch, "the environment"):
            settle(place, cache_dir())
        yield place


def settle(place: Path, cache: Path) -> None:
    """Take out of the prefix at `place` what differs from one making to the next; let everybody read it.

    That is the time of making, the paths of `cache` in records, and the times of files and folders of its own; files
    that are hard links to the package cache aren't changed: they have the times of their packages. A channel of wheels
    in the cache is named by all that is in it: with its name no record would stay the same when one package is another.
    """
    receipt = json.loads((place / RECEIPT).read_text("utf-8"))
    uri = re.compile(re.escape(cache.absolute().as_uri()) + "(/channels/[0-9a-f]{16})?")
    receipt = json.loads(uri.sub(CACHE, json.dumps(receipt | {"made": "2020-01-01T00:00:00+00:00"})))
    _rewrite(place / RECEIPT, json.dumps(receipt, indent=1) + "\n")
    for path in sorted((place / "conda-meta").glob("*.json")):
        record = json.loads(path.read_bytes())
        text = json.dumps({key: value for key, value in record.items() if key not in _NOWHERE})
        _rewrite(path, uri.sub(CACHE, text) + "\n")
    history = place / HISTORY
    _rewrite(history, uri.sub(CACHE, history.read_text("utf-8")))
    for folder, _, names in os.walk(place, topdown=False):
        for name in names:
            _settle_file(f"{folder}/{name}")
        os.chmod(folder, 0o755)
        os.utime(folder, (EPOCH, EPOCH))


def _rewrite(path: Path, text: str) -> None:
    path.unlink()  # a package may have shipped it, as a link to the cache
    path.write_text(text, encoding="utf-8")


def _settle_file(path: str) -> None:
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        return
    if not stat.S_ISREG(found.st_mode):
        raise SatenvError(f"{path}: neither a file, a folder nor a link; an image can't hold it")
    mode = 0o755 if found.st_mode & stat.S_IXUSR else 0o644
    if found.st_nlink > 1 and stat.S_IMODE(found.st_mode) != mode:  # not the package cache's to change
        shutil.copy2(path, f"{path}.satenv-copy")
        os.replace(f"{path}.satenv-copy", path)
    elif found.st_nlink > 1:
        return
    os.chmod(path, mode)
    if _is_source_of_bytecode(path, found):
        return
    os.utime(path, (EPOCH, EPOCH))


def _is_source_of_bytecode(path: str, found: os.stat_result) -> bool:
    """Whether bytecode beside the Python file at `path` goes by its time (PEP 552); with another it would be stale."""
    if not path.endswith(".py"):
        return False
    folder, name = os.path.split(path)
    for cached in Path(folder, "__pycache__").glob(f"{name[:-3]}.*.pyc"):
        with open(cached, "rb") as stream:
            header = stream.read(16)
        if header[4:8] == bytes(4) and header[8:12] == (int(found.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little"):
            return True
    return False

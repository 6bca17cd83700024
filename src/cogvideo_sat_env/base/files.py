"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvideo_sat_env.base.permissions import own_mode, umask

PARTIAL = ".*.partial"  # pattern of what a killed run leaves beside its target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give the path of a file beside `target`; at the end it takes the place of `target`, after an error it is removed.

    The block makes the file. A link at `target` is replaced, never followed. Raises OSError.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)  # also when both were links to one file: then the rename does nothing


def write_atomically(path: Path, content: bytes, durable: bool = True) -> bool:
    """Write `content` beside `path` and rename; return whether that changed anything. Modes are those of the umask.

    A file with the same content is left alone, so that its time tells when it changed. Without `durable` the bytes
    may still be on their way to the disk: for what can be made again. Raises OSError.
    """
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, open(partial, "xb") as stream:
        stream.write(content)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Have the file `source` at `target`, too, where nothing is yet, with the umask's mode. Raises OSError.

    It becomes a hard link where that can be and the mode of `source` fits.
    """
    mode = os.stat(source).st_mode
    try:
        if stat.S_IMODE(mode) == own_mode(mode, umask()):
            os.link(source, target)
        else:
            shutil.copyfile(source, target)
    except FileExistsError:
        raise
    except OSError:  # another file system, one without hard links, or a file of somebody else's
        shutil.copyfile(source, target)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, also one that keeps its owner out; nothing there is fine. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path)
        except PermissionError:
            set_folder_modes(path, 0o700)
            shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def set_folder_modes(folder: Path, mode: int) -> None:
    """Give `folder` and all folders below it `mode`. Raises OSError."""
    folders = [str(folder)]
    while folders:
        inside = folders.pop()
        os.chmod(inside, mode)  # before it is looked into
        with os.scandir(inside) as entries:
            folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]

"""What is done with the plain files of one extracted package: tasks of workers.py, mostly in processes of its own.

A plain file (package_manifest.py) is the same in every prefix, so it is hard-linked, and what is written of it is
known from the package alone. All other files are rattler's. Only the standard library is imported: many processes
start with this.
Arguments and results are plain JSON values; the only error is OSError.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Sequence
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

from cogvideo_sat_env.base.permissions import own_mode, umask
from cogvideo_sat_env.install import package_manifest

SITE = "site-packages/"  # where noarch Python packages keep what goes into the prefix's site-packages
# another file system, one without hard links, another's file (fs.protected_hardlinks), too many links
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
_read = package_manifest.plain_files


def remember() -> None:
    """Read the manifest of a package once for all tasks: for a process that ends before it can be written anew."""
    global _read
    _read = functools.cache(package_manifest.plain_files)


def verify(manifest_path: str, folder: str) -> str | None:
    """Return the first file that is not as in the manifest, or None."""
    return package_manifest.changed(Path(manifest_path), Path(folder))


def link(manifest_path: str, folder: str, root: str, site: str | None, skip: Collection[str]) -> str | int:
    """Link the plain files into `root`, but for those that would become one of `skip`; return how many they are.

    A file that is not as in the manifest ends it: its name is returned. `site` is the site-packages of the prefix, for
    a noarch Python package. Where no hard link is possible the files are copied.
    """
    try:
        files = targets(manifest_path, site, skip)
        owner = os.stat(folder).st_uid
    except (OSError, ValueError):
        return os.path.basename(manifest_path)
    copying, mask = False, umask()
    here, source, target = None, -1, -1
    try:
        for name, goal, fact in files:
            inside, _, base = name.rpartition("/")
            parent, _, last = goal.rpartition("/")
            if (inside, parent) != here:  # paths relative to an open folder are resolved sooner
                here = None
                _close(source, target)
                source = target = -1
                source = _open(f"{folder}/{inside}")
                os.makedirs(f"{root}/{parent}", exist_ok=True)
                target = os.open(f"{root}/{parent}", _FOLDER)
                here = (inside, parent)
            try:
                found = os.lstat(base, dir_fd=source) if source >= 0 else None
            except OSError:
                found = None
            if found is None or package_manifest.is_changed(found, fact, owner):
                return name
            if not copying:
                try:
                    os.link(base, last, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                    continue
                except OSError as error:
                    if error.errno not in _NO_LINK:
                        raise OSError(error.errno, error.strerror, f"{root}/{goal}") from error
                    copying = True
            shutil.copyfile(f"{folder}/{name}", f"{root}/{goal}", follow_symlinks=False)
            os.chmod(f"{root}/{goal}", own_mode(found.st_mode, mask))
        return len(files)
    finally:
        _close(source, target)


def _open(folder: str) -> int:
    try:
        return os.open(folder, _FOLDER)
    except OSError:
        return -1  # told as the file that isn't there


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


def complete_record(
    record: str, manifest_path: str, root: str, site: str | None, skip: Collection[str], renamed: Sequence[str],
    asked: Sequence[str], tag: str | None, linked: bool,
) -> None:  # fmt: skip
    """Add the plain files to the conda-meta record that rattler wrote of the others, and the bytecode that is there.

    The plain files are there already unless they were `linked` apart.

    `renamed` are the folder that rattler was shown and the one where the package is extracted; `asked` the match specs
    of the user's that name the package; `tag` is in the names of bytecode, for a noarch Python package.
    """
    with open(record, encoding="utf-8") as stream:
        said = json.loads(stream.read().replace(*(json.dumps(folder) for folder in renamed)))
    if asked:
        said["requested_specs"] = list(asked)
        said["requested_spec"] = asked[0]  # the field that conda reads
    paths = said.pop("paths_data")
    entries = {entry["_path"]: json.dumps(entry) for entry in paths.pop("paths")}
    _follow_umask(root, entries)
    for _, target, (size, _, _, sha256) in targets(manifest_path, site, skip) if linked else ():
        entries[target] = (
            f'{{"_path": {quoted(target)}, "path_type": "hardlink", "sha256": "{sha256}", "size_in_bytes": {size}}}'
        )
    if tag:
        for source in list(entries):
            cached = cached_path(source, tag)
            if source.endswith(".py") and cached not in entries and os.path.lexists(f"{root}/{cached}"):
                entries[cached] = f'{{"_path": {quoted(cached)}, "path_type": "pyc_file"}}'
    names = sorted(entries)  # rattler's order isn't always the same
    del said["files"]
    files = ", ".join(map(quoted, names))
    version = json.dumps(paths)[1:-1]
    with open(record, "w", encoding="utf-8") as stream:
        stream.write(  # not indented: that is five times slower
            f'{json.dumps(said)[:-1]}, "files": [{files}], "paths_data": {{{version}{", " if version else ""}"paths": ['
        )
        stream.write(", ".join(entries[name] for name in names) + "]}}\n")
    _follow_umask(root, [os.path.relpath(record, root)])


def _follow_umask(root: str, names: Iterable[str]) -> None:
    """Give files that rattler made in `root` the modes of the umask; those that the cache has, too, keep theirs."""
    mask = umask()
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # rattler leaves out what another package has
            found = os.lstat(f"{root}/{name}")
            mode = own_mode(found.st_mode, mask)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and stat.S_IMODE(found.st_mode) != mode:
                os.chmod(f"{root}/{name}", mode)


def cached_path(source: str, tag: str) -> str:
    """Return where Python with the cache tag `tag` looks for the bytecode of `source`."""
    folder, _, file = source.rpartition("/")
    return f"{folder}/__pycache__/{file.removesuffix('.py')}.{tag}.pyc".lstrip("/")


def targets(
    manifest_path: str, site: str | None, skip: Collection[str]
) -> list[tuple[str, str, package_manifest.Fact]]:
    """Return path in the package, path in the prefix and facts of the plain files that are to be linked.

    Raises OSError, ValueError (a damaged manifest).
    """
    facts = _read(Path(manifest_path))
    if site is None and not skip:
        return [(name, name, fact) for name, fact in facts.items()]
    skipped = frozenset(skip)
    found = ((name, target_of(name, site), fact) for name, fact in facts.items())
    return [
        (name, target, fact)
        for name, target, fact in found
        if target not in skipped and not (site and name.startswith("python-scripts/"))
    ]


def target_of(name: str, site: str | None) -> str:
    """Return where a package's file goes, relative to the prefix; `site` is for noarch Python packages only."""
    if site is None:
        return name
    if name.startswith(SITE):
        return f"{site}/{name[len(SITE) :]}"
    return f"bin/{name[15:]}" if name.startswith("python-scripts/") else name

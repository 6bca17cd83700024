"""A channel in a folder, on this machine or on a shared file system."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from cogvideo_sat_env.base.errors import InputError, SourceError, VerificationError
from cogvideo_sat_env.base.files import PARTIAL, replacing
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.package.publish.built import BuiltPackage
from cogvideo_sat_env.source.local_channel import run_indexer


class Folder:
    """Packages are copied beside their place, proven and renamed; the index is written last."""

    def __init__(self, path: Path, built: Path) -> None:
        """Take the folder `path` (which may not exist yet) as target for the channel in `built`."""
        self.path, self.name = path, str(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; expected a folder for the channel", "name another folder")
        if path.resolve() == built.resolve():
            raise InputError(f"{path}: is the built channel itself", "name the folder that it is published to")

    def digests(self, packages: Sequence[BuiltPackage]) -> dict[str, str]:
        """Return the SHA-256 of the files that are there, whatever the index there says."""
        try:
            return {p.key: sha256_file(self.path / p.key) for p in packages if (self.path / p.key).exists()}
        except OSError as error:
            raise SourceError(f"{error.filename}: {error.strerror}", "check its permissions") from error

    def upload(self, packages: Sequence[BuiltPackage], replaced: bool, progress: Progress) -> None:
        """Copy, prove, rename; then index. Raises SourceError, VerificationError; what was renamed is whole."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".satenv-publish.lock")
            with lock.acquire(timeout=0):
                self._copy_all(packages, progress)
                self._index(packages, replaced)
        except Timeout as error:
            raise SourceError(f"{self.path}: another publish is at work there", "wait for it, run again") from error
        except OSError as error:
            raise SourceError(
                f"{error.filename2 or error.filename or self.path}: {error.strerror}; the index there is as it was",
                "check permissions and free space, run again",
            ) from error

    def _copy_all(self, packages: Sequence[BuiltPackage], progress: Progress) -> None:
        for left in self.path.glob(f"*/{PARTIAL}"):  # of a killed run; the lock says that nobody writes them now
            left.unlink()
        with progress.task(f"Copying to {self.path}", sum(p.size for p in packages), "bytes") as task:
            for package in packages:
                task.note(package.key)
                _copy(package, self.path / package.key)
                task.advance(package.size)

    def _index(self, packages: Sequence[BuiltPackage], replaced: bool) -> None:
        (self.path / "noarch").mkdir(exist_ok=True)
        shards = (self.path / "noarch" / "repodata_shards.msgpack.zst").is_file()  # as the channel has been kept
        run_indexer(self.path, SourceError, None, write_zst=True, write_shards=shards, force=replaced)
        for subdir in sorted({package.subdir for package in packages}):
            index = json.loads((self.path / subdir / "repodata.json").read_text(encoding="utf-8"))
            records = {**index["packages"], **index["packages.conda"]}
            for package in packages:
                found = records.get(package.path.name, {}).get("sha256")
                if package.subdir == subdir and found != package.sha256:
                    raise VerificationError(
                        f"{self.path / subdir}/repodata.json: {package.path.name} has sha256 {found or 'no record'}; "
                        f"expected {package.sha256}",
                        "run again with --force",
                    )


def _copy(package: BuiltPackage, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with replacing(target) as partial:
        shutil.copyfile(package.path, partial)
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        found = sha256_file(partial)
        if found != package.sha256:
            raise VerificationError(
                f"{partial}: expected sha256 {package.sha256}, found {found} after copying",
                "check the disk and run again",
            )

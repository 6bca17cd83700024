"""Links proven packages into the staging directory, written for their final prefix."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import diskspace, machine
from cogvideo_sat_env.base.errors import PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.install import own_files
from cogvideo_sat_env.install.archive import ExtractedPackage
from cogvideo_sat_env.install.job import Job
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.workers import REMEDY, FailedError, WorkerPool, ask, reap, start_process

_VIEW = ".satenv-view"  # in the staging directory while linking: what rattler is shown of the extracted packages
_STDERR = ".satenv-stderr"


class Changed(Exception):
    """Packages whose extracted files are not as they were proven: what was staged is worth nothing.

    `files` are the first such file of each, by the package's number.
    """

    def __init__(self, files: Mapping[int, str]) -> None:
        super().__init__(files)
        self.files = files


class Linker:
    """rattler, which links and writes the conda-meta records, in a process of its own (link_task.py).

    It starts at once, so that rattler is loaded while the packages are read. `root` is the staging directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stderr = open(root / _STDERR, "w+")  # noqa: SIM115 - as long as the process
        self._child = start_process("link", stderr=self._stderr)

    def __enter__(self) -> Linker:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._stderr.close()
        reap([self._child])

    def link(self, job: Job, layout: Layout, workers: WorkerPool) -> None:
        """Link the packages so that every embedded path says `job.embedded`, and make their entry points; once.

        `workers` compare the extracted files with their manifests meanwhile. Link scripts are not run, and records
        are completed later (conda_meta.py).
        Raises Changed, PrefixError (no space), VerificationError (a package that can't be linked as it says).
        """
        root, packages = self._root, [each.package for each in layout.placed]
        if not diskspace.same_file_system(job.cache, job.prefix):  # no hard links: the prefix needs space of its own
            diskspace.require(job.prefix, sum(p.installed_bytes for p in packages), "the environment")
        view = root / _VIEW
        message = {
            "staging": str(root), "prefix": str(job.embedded), "platform": job.plan.platform, "view": str(view),
            "packages": [_described(each.package, each.entries()) for each in layout.placed],
        }  # fmt: skip
        proven = [{"manifest_path": str(p.manifest.path), "folder": str(p.folder)} for p in packages]
        verified = workers.start("verify", proven)
        try:
            self._run(job, message)
        except VerificationError:
            verified()
            _require_same(workers.run("verify", proven))  # a package that is extracted anew meanwhile can't be linked
            raise
        _require_same(verified())
        shutil.rmtree(view)
        for each in layout.placed:
            for script in each.package.entry_points:
                if script.path not in each.lost:
                    own_files.write(root, script.path, script.script(str(job.embedded / layout.python)), 0o777)

    def _run(self, job: Job, message: Mapping[str, Any]) -> None:
        with job.progress.task("Linking", len(message["packages"]), "packages") as task:

            def linked(name: str) -> None:
                task.note(name)
                task.advance(1)

            try:
                (wrong,) = ask(self._child, "link", [message], linked)
            except FailedError:
                self._stderr.seek(0)
                words = self._stderr.read().strip()[-400:] or "no message"
                raise SatenvError(
                    f"the linking process ended with {self._child.wait()} before it was done: {words}", REMEDY
                ) from None
            finally:
                self._child.kill()
                self._child.wait()
        (self._root / _STDERR).unlink()
        if wrong is not None:
            raise _error(wrong, self._root, job.cache)


def _require_same(results: Sequence[object]) -> None:
    changed = {number: name for number, name in enumerate(results) if isinstance(name, str)}
    if changed:
        raise Changed(changed)


def _described(package: ExtractedPackage, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what link_task.py needs of a package; without `paths` it may see the whole folder."""
    artefact = package.artefact
    whole = len(entries) == len(package.paths) and not package.entry_points
    return {
        "name": package.record_name, "folder": str(package.folder), "paths": None if whole else list(entries),
        "noarch_python": package.noarch_python, "size": package.manifest.archive_size, "sha256": artefact.sha256,
        "md5": artefact.md5, "file_name": artefact.file_name, "channel": artefact.channel,
    }  # fmt: skip


def _error(text: str, staging: Path, cache: Path) -> SatenvError:
    if any(mark in text for mark in diskspace.MARKS):
        # rattler's message doesn't always say which of the two it was writing
        where = min(cache, staging.parent, key=lambda folder: shutil.disk_usage(folder).free)
        return diskspace.full(where, "the packages")
    if "Permission denied" in text or "os error 13" in text or "Read-only file system" in text:
        return PrefixError(f"{staging.parent}: not writable: {text}", "choose another prefix with -p")
    limits = machine.narrow_limits()
    if limits:  # rattler's words are of what it then found: a record cut short, a thread that panicked
        return SatenvError(
            f"linking failed: {text}", f"a limit is in force ({limits}): raise it, and run the command again"
        )
    return VerificationError(
        f"linking failed: {text}", "the bytes are as locked, so a package is at fault: tell its channel"
    )

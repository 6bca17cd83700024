"""Links proven packages into the staging directory, written for their final prefix."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.install.archive import Package
from cogvideo_sat_env.install.layout import Layout
from cogvideo_sat_env.install.staging import held_fds
from cogvideo_sat_env.install.workers import Work, WorkerPool

_WORKER = Path(__file__).with_name("link_worker.py")
VIEW = ".satenv-view"  # in the staging directory while linking: what rattler is shown of the extracted packages
_SAID = ".satenv-said"
_UNFIT = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT)  # not the disk's fault


class Changed(Exception):
    """Packages whose extracted files are not as they were proven: what was staged is worth nothing.

    `files` are the first such file of each, by the package's number.
    """

    def __init__(self, files: Mapping[int, str]) -> None:
        super().__init__(files)
        self.files = files


def link(
    packages: Sequence[Package],
    layout: Layout,
    *,
    staging: Path,
    prefix: Path,
    platform: str,
    cache: Path,
    workers: WorkerPool,
    progress: Progress,
) -> bool:
    """Link `packages` into `staging` so that every embedded path says `prefix`.

    `workers` proves and links the plain files while rattler does all others, which are proven already, and writes the
    conda-meta records of these (conda_meta.py completes them). Link scripts are not run. `cache` is where most of the
    packages are extracted: without hard links between the two the prefix needs space of its own, and rattler copies
    everything. Return whether plain files were linked apart from the others.
    Raises Changed, PrefixError (no space), VerificationError (a package that can't be linked as it says).
    """
    linked = diskspace.same_file_system(cache, prefix)
    if not linked:
        diskspace.require(prefix, sum(p.installed_bytes for p in packages), "the environment")
        jobs = [{"manifest_path": str(p.manifest.path), "folder": str(p.folder)} for p in packages]
        _require_same(workers.run("verify", jobs))
    view = staging / VIEW

    def plain() -> Work:
        jobs = [{**plain_job(p, layout, number, staging), "folder": str(p.folder)} for number, p in enumerate(packages)]
        return workers.start("link", jobs if linked else [])

    def rest() -> dict[str, Any]:
        entries = [_rest(p, layout, number, linked) for number, p in enumerate(packages)]
        named = [_described(p, paths) for p, paths in zip(packages, entries, strict=True)]
        return {
            "staging": str(staging), "prefix": str(prefix), "platform": platform, "view": str(view), "packages": named
        }  # fmt: skip

    results = _run(plain, rest, len(packages), staging, cache, progress)
    _require_same(results)
    shutil.rmtree(view)
    for folder, _, _ in os.walk(staging / "__clobbers__", topdown=False):
        with contextlib.suppress(OSError):  # rattler leaves empty ones, not always the same
            os.rmdir(folder)
    return linked


def _require_same(results: Sequence[object]) -> None:
    changed = {number: name for number, name in enumerate(results) if isinstance(name, str)}
    if changed:
        raise Changed(changed)


def _described(package: Package, paths: list[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return what link_worker.py is told of a package; `paths` are the entries to link, None for all."""
    artefact = package.artefact
    return {
        "name": package.record_name, "folder": str(package.folder), "paths": paths,
        "size": package.manifest.archive_size, "sha256": artefact.sha256, "md5": artefact.md5,
        "file_name": artefact.file_name, "url": artefact.url,
        "channel": artefact.channel,
    }  # fmt: skip


def plain_job(package: Package, layout: Layout, number: int, root: Path) -> dict[str, Any]:
    """Return the arguments that most tasks of hardlink.py have in common."""
    return {
        "manifest_path": str(package.manifest.path), "root": str(root), "site": layout.site_for(package),
        "skip": layout.skipped(number),
    }  # fmt: skip


def _rest(package: Package, layout: Layout, number: int, linked: bool) -> list[Mapping[str, Any]] | None:
    """Return the entries that rattler is to link; None for all of them."""
    rest = layout.rest(package, number, linked)
    return None if len(rest) == len(package.paths) else rest


def _run(
    plain: Callable[[], Work], rest: Callable[[], dict[str, Any]], count: int, staging: Path, cache: Path,
    progress: Progress,
) -> list[Any]:  # fmt: skip
    """Have both done at the same time; return the results of `plain`."""
    results: list[Any] = []
    with progress.task("Linking", count, "packages") as task, open(staging / _SAID, "w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8",
            pass_fds=held_fds(),
        )  # fmt: skip
        last = {"event": "none"}
        try:
            work = plain()  # while rattler is loaded
            child.stdin.write(json.dumps(rest()) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                last = json.loads(line)
                if last["event"] == "linked":
                    task.note(last["name"])
                    task.advance(1)
            results = work.wait()
        except BrokenPipeError:
            pass  # it died while it read the job: told below by its return code and its last words
        except OSError as error:
            if error.errno in _UNFIT:
                raise _unfit(str(error)) from error
            raise
        finally:
            if last["event"] not in ("done", "error"):
                child.kill()
            child.wait()
            child.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
        said.seek(0)
        words = said.read()
    (staging / _SAID).unlink()
    if last["event"] != "done":
        raise _error(last, words, child.returncode, staging, cache)
    return results


def _error(last: dict, said: str, code: int, staging: Path, cache: Path) -> SatenvError:
    text = str(last.get("text", ""))
    if any(mark in text for mark in diskspace.MARKS):
        # rattler's message doesn't always say which of the two it was writing
        where = min(cache, staging.parent, key=lambda folder: shutil.disk_usage(folder).free)
        return diskspace.full(where, "the packages")
    if "Permission denied" in text or "os error 13" in text or "Read-only file system" in text:
        return PrefixError(f"{staging.parent}: not writable: {text}", "choose another prefix with -p")
    if last["event"] == "error":
        return _unfit(text)
    return SatenvError(
        f"the linking process ended with {code} before it was done: {said.strip()[-400:] or 'no message'}",
        "run it again; if it repeats, check memory limits (ulimit, cgroup) and report it",
    )


def _unfit(text: str) -> VerificationError:
    return VerificationError(
        f"linking failed: {text}", "the bytes are as locked, so a package is at fault: tell its channel"
    )

"""Links verified archives into the staging directory, written for their final prefix."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cogvideo_sat_env.errors import PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.install import space
from cogvideo_sat_env.install.archive import Archive
from cogvideo_sat_env.install.staging import held_fds
from cogvideo_sat_env.progress import Progress

_WORKER = Path(__file__).with_name("link_worker.py")


@dataclass(frozen=True)
class Linked:
    """What was linked. `noarch_python` are the conda-meta files of packages that came without bytecode."""

    files: int
    noarch_python: tuple[Path, ...]


def link(
    archives: Sequence[Archive],
    *,
    staging: Path,
    prefix: Path,
    platform: str,
    requested: Sequence[str],
    cache: Path,
    progress: Progress,
) -> Linked:
    """Link `archives` into `staging` so that every embedded path says `prefix`; conda-meta tells the real channels.

    Link scripts are not run. `requested` are the match specs that the user asked for. The extracted packages stay in
    `cache`/pkgs and are proven against their own lists of hashes.
    Raises PrefixError (no space), VerificationError (an archive that can't be linked as it says).
    """
    packages = cache / "pkgs"
    with space.watch(cache, "the package cache"):
        packages.mkdir(parents=True, exist_ok=True)
    _require_space(archives, packages, prefix)
    job = {
        "staging": str(staging),
        "prefix": str(prefix),
        "platform": platform,
        "package_cache": str(packages),
        "packages": [
            {
                "path": str(a.path),
                "index_json": a.index_json,
                "size": a.path.stat().st_size,
                "sha256": a.artefact.sha256,
                "md5": a.artefact.md5,
                "file_name": a.artefact.file_name,
                "channel": a.artefact.channel,
            }
            for a in archives
        ],
    }
    with progress.task("Linking", len(archives), "packages") as task, tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8",
            pass_fds=held_fds(),
        )  # fmt: skip
        last = {"event": "none"}
        try:
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                last = json.loads(line)
                if last["event"] == "linked":
                    task.note(last["name"])
                    task.advance(1)
        except BrokenPipeError:
            pass  # it died while it read the job: told below by its return code and its last words
        finally:
            if last["event"] not in ("done", "error"):
                child.kill()
            child.wait()
            child.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
        said.seek(0)
        words = said.read()
    if last["event"] != "done":
        raise _error(last, words, child.returncode, staging, packages)
    if (staging / "__clobbers__").exists() and not any(staging.glob("__clobbers__/*/*")):
        (staging / "__clobbers__").rmdir()
    return _finish(archives, staging, requested)


def _require_space(archives: Sequence[Archive], packages: Path, prefix: Path) -> None:
    new = sum(a.installed_bytes for a in archives if not (packages / _extracted_name(a)).is_dir())
    space.require(packages, new, "the extracted packages")
    if not space.same_file_system(packages, prefix):  # no hard links: the prefix gets copies
        space.require(prefix, sum(a.installed_bytes for a in archives), "the environment")


def _extracted_name(archive: Archive) -> str:
    return f"{archive.artefact.name}-{archive.artefact.version}-{archive.artefact.build}"


def _error(last: dict, said: str, code: int, staging: Path, packages: Path) -> SatenvError:
    text = str(last.get("text", ""))
    if any(mark in text for mark in space.MARKS):
        # rattler's message doesn't always say which of the two it was writing
        where = min(packages, staging.parent, key=lambda folder: shutil.disk_usage(folder).free)
        return space.full(where, "the packages")
    if "Permission denied" in text or "os error 13" in text or "Read-only file system" in text:
        return PrefixError(f"{staging.parent} or {packages}: not writable: {text}", "choose another -p or SATENV_CACHE")
    if last["event"] == "error":
        return VerificationError(
            f"linking failed: {text}", "the bytes are as locked, so a package is at fault: tell its channel"
        )
    return SatenvError(
        f"the linking process ended with {code} before it was done: {said.strip()[-400:] or 'no message'}",
        "run it again; if it repeats, check memory limits (ulimit, cgroup) and report it",
    )


def _finish(archives: Sequence[Archive], staging: Path, requested: Sequence[str]) -> Linked:
    """Give each conda-meta record its real URL, write the history that conda and mamba want, and count."""
    files, noarch, names = 0, [], []
    for archive in archives:
        artefact = archive.artefact
        path = staging / "conda-meta" / f"{_extracted_name(archive)}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VerificationError(f"{artefact.file_name} was not linked: {path.name}: {error}", None) from error
        record |= {"url": artefact.url, "channel": artefact.channel, "fn": artefact.file_name}
        asked = [spec for spec in requested if re.split(r"[ <>=!~\[]", spec, maxsplit=1)[0] == artefact.name]
        record["requested_specs"] = asked  # py-rattler 0.28's own parameter refuses its own MatchSpec
        if asked:
            record["requested_spec"] = asked[0]  # the field that conda reads
        write_record(path, record)
        files += len(record["files"])
        if archive.index.get("noarch") == "python":
            noarch.append(path)
        names.append(f"+{artefact.channel}/{artefact.subdir}::{_extracted_name(archive)}")
    # the newest build time of the packages: the same environment gets the same history
    stamps = [float(a.index.get("timestamp") or 0) for a in archives]
    newest = max(stamps, default=0.0)
    moment = datetime.fromtimestamp(newest / 1000 if newest > 1e11 else newest, timezone.utc)
    specs = json.dumps(list(requested))
    head = [f"==> {moment:%Y-%m-%d %H:%M:%S} <==", "# cmd: satenv create"]
    history = [*head, *sorted(names), f"# update specs: {specs}"]
    (staging / "conda-meta" / "history").write_text("\n".join(history) + "\n", encoding="utf-8")
    return Linked(files, tuple(noarch))


def write_record(path: Path, record: dict) -> None:
    """Write a conda-meta record as conda does: JSON, two spaces."""
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

"""Links proven packages into the staging directory, written for their final prefix."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cogvideo_sat_env.errors import PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.install import space
from cogvideo_sat_env.install.archive import Package
from cogvideo_sat_env.install.staging import held_fds
from cogvideo_sat_env.progress import Progress

_WORKER = Path(__file__).with_name("link_worker.py")
VIEW = ".satenv-view"  # in the staging directory while linking: links to the extracted packages, for rattler
_SAID = ".satenv-said"


@dataclass(frozen=True)
class Linked:
    """What was linked. `noarch_python` are packages that came without bytecode, by their conda-meta files."""

    files: int
    noarch_python: Mapping[Path, Package]


def link(
    packages: Sequence[Package],
    *,
    staging: Path,
    prefix: Path,
    platform: str,
    requested: Sequence[str],
    cache: Path,
    progress: Progress,
    meanwhile: Callable[[], None] = lambda: None,
) -> Linked:
    """Link `packages` into `staging` so that every embedded path says `prefix`.

    Link scripts are not run. `requested` are the match specs that the user asked for. `cache` is where most of the
    packages are extracted: without hard links between the two the prefix needs space of its own. `meanwhile` is called
    while another process links.
    Raises PrefixError (no space), VerificationError (a package that can't be linked as it says).
    """
    if not space.same_file_system(cache, prefix):  # no hard links: the prefix gets copies
        space.require(prefix, sum(p.installed_bytes for p in packages), "the environment")
    view = staging / VIEW
    job = {
        "staging": str(staging),
        "prefix": str(prefix),
        "platform": platform,
        "view": str(view),
        "packages": [
            {
                "name": _name(p),
                "folder": str(p.folder),
                "size": p.proof.archive_size,
                "sha256": p.artefact.sha256,
                "md5": p.artefact.md5,
                "file_name": p.artefact.file_name,
                "url": p.artefact.url,
                "channel": p.artefact.channel,
            }
            for p in packages
        ],
    }
    _run(job, staging, cache, progress, meanwhile)
    shutil.rmtree(view)
    if (staging / "__clobbers__").exists() and not any(staging.glob("__clobbers__/*/*")):
        (staging / "__clobbers__").rmdir()
    return _finish(packages, staging, view, requested)


def _run(job: dict, staging: Path, cache: Path, progress: Progress, meanwhile: Callable[[], None]) -> None:
    with progress.task("Linking", len(job["packages"]), "packages") as task, open(staging / _SAID, "w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8",
            pass_fds=held_fds(),
        )  # fmt: skip
        last = {"event": "none"}
        try:
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
            meanwhile()
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
    (staging / _SAID).unlink()
    if last["event"] != "done":
        raise _error(last, words, child.returncode, staging, cache)


def _name(package: Package) -> str:
    return f"{package.artefact.name}-{package.artefact.version}-{package.artefact.build}"


def _error(last: dict, said: str, code: int, staging: Path, cache: Path) -> SatenvError:
    text = str(last.get("text", ""))
    if any(mark in text for mark in space.MARKS):
        # rattler's message doesn't always say which of the two it was writing
        where = min(cache, staging.parent, key=lambda folder: shutil.disk_usage(folder).free)
        return space.full(where, "the packages")
    if "Permission denied" in text or "os error 13" in text or "Read-only file system" in text:
        return PrefixError(f"{staging.parent}: not writable: {text}", "choose another prefix with -p")
    if last["event"] == "error":
        return VerificationError(
            f"linking failed: {text}", "the bytes are as locked, so a package is at fault: tell its channel"
        )
    return SatenvError(
        f"the linking process ended with {code} before it was done: {said.strip()[-400:] or 'no message'}",
        "run it again; if it repeats, check memory limits (ulimit, cgroup) and report it",
    )


def _finish(packages: Sequence[Package], staging: Path, view: Path, requested: Sequence[str]) -> Linked:
    """Mend what the conda-meta records say of the cache and of what was asked for, write the history, and count."""
    files, noarch, names = 0, {}, []
    for package in packages:
        artefact = package.artefact
        path = staging / "conda-meta" / f"{_name(package)}.json"
        try:
            said = path.read_text(encoding="utf-8")
        except OSError as error:
            raise VerificationError(f"{artefact.file_name} was not linked: {path.name}: {error}", None) from error
        # the view is gone when the prefix is there; as text, because parsing 400 records takes half a second
        said = said.replace(json.dumps(str(view / _name(package))), json.dumps(str(package.folder)))
        # py-rattler 0.28's own parameter refuses its own MatchSpec
        asked = [spec for spec in requested if re.split(r"[ <>=!~\[]", spec, maxsplit=1)[0] == artefact.name]
        if asked:
            record = json.loads(said)
            record["requested_specs"] = asked
            record["requested_spec"] = asked[0]  # the field that conda reads
            said = _json(record)
        path.write_text(said, encoding="utf-8")
        files += len(package.paths)
        if package.index.get("noarch") == "python":
            noarch[path] = package
        names.append(f"+{artefact.channel}/{artefact.subdir}::{_name(package)}")
    # the newest build time of the packages: the same environment gets the same history
    stamps = [float(p.index.get("timestamp") or 0) for p in packages]
    newest = max(stamps, default=0.0)
    moment = datetime.fromtimestamp(newest / 1000 if newest > 1e11 else newest, timezone.utc)
    specs = json.dumps(list(requested))
    head = [f"==> {moment:%Y-%m-%d %H:%M:%S} <==", "# cmd: satenv create"]
    history = [*head, *sorted(names), f"# update specs: {specs}"]
    (staging / "conda-meta" / "history").write_text("\n".join(history) + "\n", encoding="utf-8")
    return Linked(files, noarch)


def _json(record: dict) -> str:
    return json.dumps(record) + "\n"  # not indented: that is five times slower


def write_record(path: Path, record: dict) -> None:
    """Write a conda-meta record."""
    path.write_text(_json(record), encoding="utf-8")

"""`satenv deploy`: a release made by the ordinary create or bundle install, proven by the doctor, then made current."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.permissions import under_umask
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.bundle.install import install_bundle
from cogvideo_sat_env.cluster import access, modulefile, record
from cogvideo_sat_env.cluster import root as roots
from cogvideo_sat_env.cluster.image_facts import ImageFacts, read_facts
from cogvideo_sat_env.cluster.root import HASH, Root
from cogvideo_sat_env.cluster.squashfs_image import make_image, require_tool
from cogvideo_sat_env.cluster.starter import write_starter
from cogvideo_sat_env.create import create as creation
from cogvideo_sat_env.install import own_files, preflight, receipt, staging
from cogvideo_sat_env.install.job import Plan
from cogvideo_sat_env.install.outcome import InstallOutcome
from cogvideo_sat_env.install.prefix_lock import prefix_lock

Prove = Callable[[InstallOutcome, Progress], InstallOutcome]


@dataclass(frozen=True)
class Deployment:
    """What is to be deployed: `request` as for create, or the bundle `bundle` (and how to trust it).

    `group`: whose members may deploy and prune, too; `activate`: make it current once the doctor has passed.
    `image_at`: make a one-file image of it, too, for that folder of the nodes; `image_only`: in place of the folder.
    """

    root: Path
    request: creation.CreateRequest
    bundle: Path | None = None
    base: Path | None = None
    signers: Path | None = None
    identity: str | None = None
    group: str | None = None
    activate: bool = True
    image_at: Path | None = None
    image_only: bool = False


@dataclass(frozen=True)
class Deployed:
    """What a deployment did: `made` ("created" or "up-to-date"), and whether the release is current now."""

    root: Root
    name: str
    made: str
    record: dict[str, Any]
    current: bool
    previous: str | None
    notes: tuple[str, ...] = ()
    image: ImageFacts | None = None

    @property
    def exit_code(self) -> int:
        """0, or 1 when the doctor found something."""
        return 0 if record.passed(self.record) else 1

    def to_json(self) -> dict[str, Any]:
        """Return it for scripts; the keys are stable."""
        return {
            "root": str(self.root.path), "release": self.name, "prefix": str(self.root.prefix(self.name)),
            "status": self.made, "current": self.current, "previous": self.previous, "record": self.record,
            "notes": list(self.notes), "image": asdict(self.image) if self.image else None,
            "exit_code": self.exit_code,
        }  # fmt: skip

    def to_text(self) -> str:
        """Return it for people."""
        prefix, found = self.root.prefix(self.name), self.record
        lines = [
            f"{prefix}: {self.made}, {found['packages']} packages, {human_bytes(found['bytes'])}, "
            f"{found['files']:,} files"
        ]
        if not record.passed(found):
            failed = ", ".join(found["doctor"]["failed"])
            lines.append(f"The doctor found {failed}; it is not current: {satenv('doctor -p', prefix)}")
        elif self.current:
            before = f" (before: {self.previous})" if self.previous else ""
            lines.append(f"{self.root.current} -> releases/{self.name}{before}")
            if not self.root.is_image_only(self.name):
                lines.append(f"Load it:  module use {self.root.modules.parent}; module load {roots.MODULE}")
                lines.append(f"      or:  . {self.root.path}/load.sh")
        else:
            lines.append(f"Not current yet: {satenv('releases', self.root.path)} activate {self.name}")
        if self.image:
            lines.append(f'In a job, from the image ({human_bytes(self.image.size)}):  . "$({self.root.path}/stage)"')
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)]) + "\n"


def deploy(wanted: Deployment, progress: Progress, prove: Prove = creation.prove) -> Deployed:
    """Make a release and, when the doctor has passed in it, make it current.

    What readers see changes by one rename at the end. A run that is cut off leaves nothing that is loaded; the next one
    completes it. Raises the errors of create, bundle install and ROOT.
    """
    root, began = Root(Path(os.path.abspath(wanted.root))), time.time()
    group, break_lock = access.group_id(wanted.group), wanted.request.options.break_lock
    with under_umask(access.READERS), _about(root), diskspace.watch(root.path, "the release"):
        _require(root, wanted)
        root.current_name()  # what isn't our link is found before the work
        access.prepare(root, group)
        image, notes = None, []
        try:
            request = replace(wanted.request, prefix=_next(root), name=None, doctor=False)
            outcome = _install(replace(request, place=lambda plan: _place(root, plan, wanted)), wanted, progress)
        except _IsThere as there:
            name, made, found, image = there.name, "up-to-date", there.record, there.image
        else:
            name, made = outcome.prefix.name, outcome.status
            with prefix_lock(outcome.prefix, progress, break_lock=break_lock):  # the next one finds it proven
                record.sweep(root, name, began)
                found = _proven(root, outcome, group, progress, prove)
                if wanted.image_at is not None and record.passed(found):
                    image = _image(root, name, wanted, wanted.image_at, group, progress)
                    if wanted.image_only and (kept := _drop_folder(root, name)):
                        notes.append(kept)
        with roots.changing(root, progress, break_lock):
            modulefile.write_release(root, found)
            modulefile.write_common(root)
            if wanted.activate and record.passed(found):
                roots.point(root, name, record.user(), "deploy")
            current, previous = root.current_name() == name, roots.previous_name(root)
    notes += access.unreachable(root.prefix(name))
    return Deployed(root, name, made, found, current, previous, tuple(notes), image)


def _require(root: Root, wanted: Deployment) -> None:
    """Raise PrefixError or InputError for a ROOT that can't be used, before the first byte is fetched."""
    modulefile.require_writable_name(root.path)
    if root.path.exists() and not root.path.is_dir():
        raise PrefixError(f"{root.path}: is a file, not a folder", "choose another ROOT")
    ours = ("releases", "current", "modules", "images", "history.json", "load.sh", "leases", "stage", "lost+found")
    if root.path.is_dir() and not root.releases.is_dir():
        there = [path.name for path in root.path.iterdir() if path.name not in ours and not path.name.startswith(".")]
        if there:
            raise PrefixError(
                f"{root.path}: holds other things, e.g. {there[0]}; expected an empty folder or one with releases",
                "choose another ROOT",
            )
    preflight.require_prefix(_next(root))
    if wanted.image_at is not None:
        require_tool()


def _next(root: Root) -> Path:
    """Return a prefix in ROOT that isn't there, for what is checked before the real one is known."""
    return root.prefix(f"{_today()}-{'0' * HASH}.next")


def _today() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")


@contextmanager
def _about(root: Root) -> Iterator[None]:
    """Have errors about a prefix say what helps here: ROOT is chosen, not a prefix."""
    try:
        yield
    except (PrefixError, InputError) as error:
        remedy = re.sub(r"choose (another|a) prefix (.*)with -p", r"choose \1 ROOT \2", error.remedy or "").strip()
        remedy = remedy.replace("-p for the prefix", "ROOT for the releases")
        raise type(error)(error.message.replace(str(_next(root)), str(root.path)), remedy or None) from error


class _IsThere(Exception):
    """The release is there as an image alone: nothing is to be made."""

    def __init__(self, found: dict[str, Any], image: ImageFacts) -> None:
        self.name, self.record, self.image = str(found["release"]), found, image


def _install(request: creation.CreateRequest, wanted: Deployment, progress: Progress) -> InstallOutcome:
    if wanted.bundle is None:
        return creation.create(request, progress)
    return install_bundle(
        wanted.bundle, request, progress, base=wanted.base, signers=wanted.signers, identity=wanted.identity
    )


def _image(root: Root, name: str, wanted: Deployment, at: Path, group: int | None, progress: Progress) -> ImageFacts:
    """Have the one-file image of the release `name`, and the program with which nodes get it."""
    root.image(name).parent.mkdir(exist_ok=True)

    def make(request: creation.CreateRequest) -> None:
        _freeze(_install(request, wanted, progress).prefix)

    facts = make_image(make, wanted.request, root.image(name), at, root.prefix(name), progress)
    write_starter(root.path)
    if group is not None:
        access.share(root.image(name).parent, group)
    return facts


def _drop_folder(root: Root, name: str) -> str | None:
    """Delete the folder of a release whose image takes its place; say why where it stays."""
    if root.current_name() == name or any(entry["release"] == name for entry in roots.history(root)):
        return f"{root.prefix(name)}: stays, since it was current: jobs may use it"
    staging.delete(root.prefix(name), root.prefix(name))
    return None


def _place(root: Root, plan: Plan, wanted: Deployment) -> Path:
    """Return the prefix of the release that holds `plan`, whole; else of the one that was cut off; else a new one.

    Raises _IsThere for one whose image is all that is wanted.
    """
    lock = str(plan.facts["lock_sha256"])[:HASH]
    same = [name for name in root.names() if name[11:].partition(".")[0] == lock]
    for name in reversed(same):
        prefix = root.prefix(name)
        if receipt.holds(prefix, receipt.read(prefix), plan.fingerprint):
            return prefix
        there = record.read(root, name) if wanted.image_only and root.is_image_only(name) else None
        if there and (image := read_facts(root.image(name))).fingerprint == plan.fingerprint:
            raise _IsThere(there, image)
    begun = re.compile(rf"\.(\d{{4}}-\d\d-\d\d-{lock}(?:\.\d+)?)\.(?:satenv-new-|lock$)")
    for path in sorted(root.releases.iterdir()):
        found = begun.match(path.name)
        if found and not root.prefix(found[1]).exists():
            return root.prefix(found[1])
    name, number = f"{_today()}-{lock}", 1
    while os.path.lexists(root.prefix(name)) or (root.releases / f"{name}.json").exists():
        number += 1
        name = f"{_today()}-{lock}.{number}"
    return root.prefix(name)


def _proven(root: Root, outcome: InstallOutcome, group: int | None, progress: Progress, prove: Prove) -> dict[str, Any]:
    """Give a release what it has beside its packages, as far as it hasn't it yet; return its record."""
    prefix = outcome.prefix
    if receipt.read(prefix) is None:
        raise PrefixError(f"{prefix}: was deleted by another run (prune) just now", "run it again")
    _freeze(prefix)
    if group is not None:
        access.share_release(prefix, group)
    found = record.read(root, prefix.name) or record.make(root, prefix.name)
    if not record.passed(found):
        record.write(root, found)
        report = prove(outcome, progress).report
        assert report is not None
        found = {**found, "doctor": record.judged(report.to_json())}
        record.write(root, found)
    return found


def _freeze(prefix: Path) -> None:
    """Mark a release, or what its image is made of, for conda, mamba and `update`. Raises OSError."""
    if not (prefix / own_files.FROZEN).exists():
        message = (
            "This release is used by jobs and is never changed: an administrator deploys the next one. For packages of "
            "your own make an environment of your own."
        )
        write_atomically(prefix / own_files.FROZEN, (json.dumps({"message": message}) + "\n").encode())


def require_whole(root: Root, name: str) -> None:
    """Raise InputError for a release that isn't whole, or in which the doctor hasn't passed."""
    root.require_release(name)
    prefix, found = root.prefix(name), record.read(root, name)
    made = receipt.read(prefix)
    if root.is_image_only(name) and record.passed(found):
        read_facts(root.image(name))
        return
    if made is None:
        raise InputError(
            f"{prefix}: half a release: it has no receipt", f"{satenv('releases', root.path)} prune {name}"
        )
    gone = receipt.missing(prefix, made)
    if gone:
        raise InputError(
            f"{prefix}: half a release: {len(gone)} of its files are missing or changed, e.g. {gone[0]}",
            f"deploy it again, which makes a new one; or {satenv('create --repair -p', prefix)}",
        )
    if not record.passed(found):
        failed = (found or {}).get("doctor") or {"failed": ["it was never run"]}
        raise InputError(
            f"{prefix}: the doctor hasn't passed in it ({', '.join(failed['failed'])}); it can't become current",
            f"{satenv('doctor -p', prefix)} says more; {satenv('deploy', root.path)} runs it again",
        )

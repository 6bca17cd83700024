"""One node: the environment at its place, by the best way that this node allows; each way down is announced."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, PrefixError, SatenvError, VerificationError
from cogvideo_sat_env.cluster.image_facts import ENDING, ImageFacts, read_facts
from cogvideo_sat_env.cluster.stage import bring, mounts
from cogvideo_sat_env.cluster.stage.place import Place, job_ended, remove

MOUNT, COPY, SHARED = "mount", "copy", "shared"
RELEASES, IMAGES = "releases", "images"  # folders of a ROOT
WAYS = (MOUNT, COPY, SHARED)
_ACTIVATE = "bin/activate-cogvideo-sat"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """What there is of one release on the shared file system; `folder` and `image` are None where there is none."""

    folder: Path | None
    image: Path | None
    facts: ImageFacts | None = None
    broken: str = ""  # why there are no facts of the image


@dataclass
class Staged:
    """Where the environment is on this node, and how: loop, fuse, copy or shared; `why` not better."""

    prefix: Path
    how: str
    image: str = ""
    why: list[str] = field(default_factory=list)

    @property
    def activate(self) -> Path:
        """The script to source."""
        return self.prefix / _ACTIVATE


def find(source: Path) -> Release:
    """Return what `source` means: a ROOT of releases (its current one), a release's folder, or an image.

    Raises InputError for none of these.
    """
    source = Path(os.path.abspath(source))
    if (source / RELEASES).is_dir():
        current = source / "current"
        try:
            name = os.path.basename(os.readlink(current))
        except OSError as error:
            raise InputError(f"{current}: {error.strerror}; expected a link to a release", "name a release") from error
        source = source / RELEASES / name
    folder: Path | None
    if source.name.endswith(ENDING):
        image, name = source, source.name[: -len(ENDING)]
        folder = source.parent.parent / RELEASES / name
    else:
        image, folder = source.parent.parent / IMAGES / f"{source.name}{ENDING}", source
    facts, broken = None, ""
    if image.exists():
        try:
            facts = read_facts(image)
        except (InputError, OSError) as error:
            broken = str(error)
    if facts and facts.release:
        folder = Path(facts.release)
    if folder is not None and not (folder / _ACTIVATE).is_file():
        folder = None
    if folder is None and not image.exists():
        raise InputError(
            f"{source}: expected a ROOT of releases, a release in it, or an image ({ENDING})",
            "name one of them",
        )
    if folder is None and facts is None:
        raise InputError(broken, "tell who deployed it: the image has to be made again")
    return Release(folder, image if image.exists() else None, facts, broken)


def used(source: Path) -> list[Release]:
    """Return what of `source` this job uses on this node: `current` may be another release than when it staged.

    Of a release or an image by itself it is that one. Raises InputError as `find` does.
    """
    folder = Path(os.path.abspath(source)) / RELEASES
    if not folder.is_dir():
        return [find(source)]
    found = []
    for image in sorted(folder.with_name(IMAGES).glob(f"*{ENDING}")):
        try:
            facts = read_facts(image)
        except InputError:
            continue  # nobody could stage it
        if Place(facts).at.is_dir():
            found.append(Release(None, image, facts))
    return found


def stage(release: Release, ways: Sequence[str], copied: Path | None, say: Say) -> Staged:
    """Have the environment of `release` on this node, by the first of `ways` that works.

    One process a node does the work, all others wait and get the same. `copied` is a copy of the image that is on the
    node already. Raises the errors of base/errors.py when no way is left; nothing of the failed ways is left then.
    """
    why: list[str] = []

    def note(reason: str) -> None:
        why.append(reason)
        say(reason)

    staged: Staged | None = None
    place = Place(release.facts) if release.facts else None
    try:
        if place is None:
            note(release.broken or "this release has no image")
        elif ways != (SHARED,):
            staged = _at_place(place, release, ways, copied, note)
    except (PrefixError, VerificationError) as error:
        note(error.message)
        damaged = isinstance(error, VerificationError)
        if release.folder is None or SHARED not in ways:
            raise
        note("damaged image: tell the administrator" if damaged else "this node has no place of its own for it")
    finally:
        if copied is not None:
            copied.unlink(missing_ok=True)
    if staged is None:
        staged = _shared(release, ways, why)
        say(f"using the shared folder {release.folder}")
    staged.why, staged.image = why, str(release.image or "")
    return staged


def _shared(release: Release, ways: Sequence[str], why: Sequence[str]) -> Staged:
    if release.folder is not None and SHARED in ways:
        return Staged(release.folder, SHARED)
    reasons = "; ".join(why)
    if release.folder is None:
        raise SatenvError(
            f"the environment can't be had on this node: {reasons}; and the release has no shared folder",
            "give the node squashfuse or unsquashfs and room, or deploy the release's folder, too",
        )
    raise SatenvError(f"the environment can't be had by {', '.join(ways)}: {reasons}", "allow another way with --how")


def _at_place(place: Place, release: Release, ways: Sequence[str], copied: Path | None, note: Say) -> Staged | None:
    """Have it at the image's own path; None where nothing but the shared folder is left."""
    place.make()
    if not place.mine:
        how = place.there()
        if how:
            return Staged(place.prefix, how)
        raise PrefixError(f"{place.at}: is root's, and the environment isn't in it", "the prolog has to stage it")
    with place.locked(note):
        how = place.there()
        if not how and place.others() and os.path.islink(place.prefix):
            return Staged(place.prefix, SHARED)  # another job runs from it
        if not how:
            place.clear()
            try:
                how = _bring(place, release, ways, copied, note)
            except BaseException:
                place.clear()
                place.tidy()
                raise
        if not how and release.folder is not None and SHARED in ways:
            # the path to activate is then the same on all nodes of a job, whatever each of them could do
            place.prefix.symlink_to(release.folder)
            note(f"{place.prefix} leads to the shared folder {release.folder}")
            how = SHARED
        if how:
            place.join()
            return Staged(place.prefix, how)
        place.tidy()
        return None


def _bring(place: Place, release: Release, ways: Sequence[str], copied: Path | None, note: Say) -> str:
    image = release.image
    assert image is not None
    try:
        if copied is not None and copied.exists():
            bring.take(copied, place)
        else:
            bring.copy(image, place)
        here = place.copy
    except (bring.NoRoom, OSError) as error:
        note(f"no copy of the image on this node: {_words(error)}; it is read where it is")
        bring.verify(image, place.facts)
        here = image
    how = ""
    if MOUNT in ways:
        place.prefix.mkdir(mode=0o755)
        how, reasons = mounts.mount(here, place.prefix)
        if how and not place.holds(place.prefix):
            place.clear()
            raise VerificationError(f"{image}: is mounted, but the environment isn't in it", "have it made again")
        if not how:
            place.prefix.rmdir()
            note(f"the image can't be mounted: {'; '.join(reasons)}")
    if not how and COPY in ways:
        try:
            bring.unpack(here, place)
            how = COPY
        except (bring.NoRoom, OSError) as error:
            note(f"the image can't be unpacked: {_words(error)}")
    if how != mounts.LOOP and how != mounts.FUSE:
        remove(place.copy)
    if how:
        place.write_state(how)
    return how


def release_place(release: Release, everybody: bool, say: Say) -> bool:
    """This job doesn't use the environment on this node any more: remove it when nobody does; return whether it did.

    Raises PrefixError while it is in use.
    """
    if release.facts is None:
        return False
    place = Place(release.facts)
    if not place.at.is_dir() or not (everybody or place.is_user() or not place.others()):
        return False
    place.make()  # whose is it?
    if not place.mine:
        say(f"{place.at}: isn't this user's; left as it is")
        return False
    with place.locked(say):
        others = [name for name in place.leave() if not job_ended(name)]
        if others and not everybody:
            say(f"{place.prefix}: still used by {', '.join(others)}; left as it is")
            return False
        place.clear()
        remove(place.users)
        place.tidy()
    return True


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    name = getattr(error, "filename", None)
    return f"{name}: {text}" if name else str(text)

"""Makes a prefix from a lock's artefacts: complete or absent, whatever happens."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideo_sat_env.errors import InputError, PrefixError
from cogvideo_sat_env.install import activation as activation_files
from cogvideo_sat_env.install import receipt, space, staging
from cogvideo_sat_env.install.activation import Activation
from cogvideo_sat_env.install.hashing import describe
from cogvideo_sat_env.install.prefixlock import prefix_lock
from cogvideo_sat_env.install.receipt import is_up_to_date
from cogvideo_sat_env.lock.model import CondaArtefact, PipPin
from cogvideo_sat_env.paths import current_platform
from cogvideo_sat_env.progress import Progress

__all__ = ["InstallResult", "install_prefix", "is_up_to_date"]

NAME_MAX = 255 - len("..satenv-trash-01234567")  # bytes: the siblings' names must fit the file system, too


@dataclass(frozen=True)
class InstallResult:
    """What was done.

    status      "created", "replaced" or "up-to-date"
    stages      seconds by stage, in order
    bytes       of the artefacts that were proven (compressed)
    files       linked, laid out and generated, without bytecode
    link_scripts and collisions are for the user to read; link scripts are never run
    """

    prefix: Path
    status: str
    stages: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    packages: int = 0
    files: int = 0
    link_scripts: tuple[str, ...] = ()
    collisions: tuple[str, ...] = ()


class _Clock:
    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start


def install_prefix(
    prefix: Path,
    *,
    platform: str,
    artefacts: Sequence[CondaArtefact],
    pip_pins: Sequence[PipPin],
    locate: Callable[[CondaArtefact], str],
    source: str,
    receipt_facts: Mapping[str, Any],
    activation: Activation,
    variables: Mapping[str, str],
    cache: Path,
    progress: Progress,
    replace: bool = False,
    requested: Sequence[str] = (),
    finish: Callable[[Path, Path], None] | None = None,
    find_links: Sequence[str] = (),
    lock_timeout: float | None = None,
) -> InstallResult:
    """Make `prefix` hold exactly `artefacts` and `pip_pins`, or leave everything as it was.

    `locate` gives the URL (http, https, file) of an artefact; `source` is its kind, as told to the user and recorded.
    `replace` allows an older environment of ours in place of the new one. `requested` are the user's match specs.
    `finish(staging, prefix)` runs after linking, before the pip stage. `find_links` is a wheelhouse asked in place of
    the package index. `lock_timeout` is in seconds.
    Raises the errors of errors.py; on KeyboardInterrupt what was staged is removed and it goes on.
    """
    if platform != current_platform():
        raise InputError(
            f"the lock is for {platform}; this machine is {current_platform()}",
            "create the environment on a machine of that platform, or choose another --platform",
        )
    prefix = Path(os.path.abspath(prefix))
    wanted = receipt.fingerprint(
        platform=platform, artefacts=artefacts, pip_pins=pip_pins, variables=variables,
        activation_version=activation.version, source=source,
    )  # fmt: skip
    clock = _Clock()
    with clock.stage("compare"):
        # what a killed run left beside a good prefix is removed below, under the lock
        if is_up_to_date(prefix, wanted) and not (staging.any_left(prefix) and os.access(prefix.parent, os.W_OK)):
            return InstallResult(prefix, "up-to-date", clock.stages, packages=len(artefacts) + len(pip_pins))
    _require_possible(prefix)
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrefixError(
            f"{prefix.parent}: can't be made: {error.strerror}", "choose another prefix with -p"
        ) from error
    with prefix_lock(prefix, progress, lock_timeout):
        with clock.stage("recover"):
            staging.recover(prefix, progress)
        if is_up_to_date(prefix, wanted):  # another run made it while this one waited
            return InstallResult(prefix, "up-to-date", clock.stages, packages=len(artefacts) + len(pip_pins))
        with space.watch(prefix, "the environment"):
            _require_ours(prefix, wanted, replace)
        return _make(
            prefix, wanted, clock, platform, artefacts, pip_pins, locate, source, receipt_facts, activation, variables,
            cache, progress, requested, finish, find_links,
        )  # fmt: skip


def _make(
    prefix: Path,
    wanted: str,
    clock: _Clock,
    platform: str,
    artefacts: Sequence[CondaArtefact],
    pip_pins: Sequence[PipPin],
    locate: Callable[[CondaArtefact], str],
    source: str,
    receipt_facts: Mapping[str, Any],
    activation: Activation,
    variables: Mapping[str, str],
    cache: Path,
    progress: Progress,
    requested: Sequence[str],
    finish: Callable[[Path, Path], None] | None,
    find_links: Sequence[str],
) -> InstallResult:
    # the libraries behind these load slowly: an environment that is up to date doesn't wait for them
    from cogvideo_sat_env.install import archive, bytecode, fetch, link, pip_stage, prefixpython

    with clock.stage("fetch"):
        files = fetch.fetch(artefacts, locate=locate, cache=cache, progress=progress)
    with clock.stage("inspect"):
        archives = archive.read_archives(artefacts, files, progress)
        archive.require_prefix_fits(prefix, archives)
        collisions = archive.collisions(archives)
    root = staging.make(prefix)
    try:
        with space.watch(prefix.parent, "the environment"):
            with clock.stage("link"):
                linked = link.link(
                    archives, staging=root, prefix=prefix, platform=platform, requested=requested, cache=cache,
                    progress=progress,
                )  # fmt: skip
                # rattler marks prefixes as caches, which back-up programs would leave out
                (root / "CACHEDIR.TAG").unlink(missing_ok=True)
                if finish:
                    finish(root, prefix)
            python = prefixpython.find(root) if pip_pins or linked.noarch_python else None
            with clock.stage("bytecode"):
                if python and linked.noarch_python:
                    bytecode.compile_noarch(python, linked.noarch_python, prefix, progress)
            manifest: dict[str, dict[str, object]] = {}
            with clock.stage("pip"):
                if python and pip_pins:
                    fetched = pip_stage.fetch_pins(python, pip_pins, cache, progress, find_links)
                    with tempfile.TemporaryDirectory(prefix="satenv-build-") as scratch:
                        wheels = pip_stage.build_wheels(python, pip_pins, fetched, Path(scratch), progress)
                        manifest |= pip_stage.lay_out(python, pip_pins, wheels, prefix, progress).manifest
            with clock.stage("activation"):
                generated = activation_files.install(root, prefix, activation, variables)
                manifest |= {name: describe(root / name) for name in generated}
                scripts = [f"{a.artefact.name}: {script}" for a in archives for script in a.link_scripts]
                receipt.write(
                    root,
                    receipt.build(
                        fingerprint=wanted, source=source, platform=platform, artefacts=artefacts, pip_pins=pip_pins,
                        files=manifest, link_scripts=scripts, collisions=collisions, facts=receipt_facts,
                    ),
                )  # fmt: skip
            with clock.stage("rename"):
                replaced = staging.commit(prefix, root)
    except BaseException:
        if root.exists():
            staging.discard(prefix, root)
        raise
    return InstallResult(
        prefix,
        "replaced" if replaced else "created",
        clock.stages,
        bytes=sum(path.stat().st_size for path in files.values()),
        packages=len(artefacts) + len(pip_pins),
        files=linked.files + len(manifest) + 1,
        link_scripts=tuple(scripts),
        collisions=tuple(collisions),
    )


def _require_possible(prefix: Path) -> None:
    """Raise PrefixError for a prefix that can't be, before anything is fetched."""
    if len(prefix.name.encode("utf-8")) > NAME_MAX or not prefix.name:
        raise PrefixError(
            f"{prefix}: its last part must have 1 to {NAME_MAX} bytes", "choose another prefix with -p"
        )
    if any(character in str(prefix) for character in "\n\r:"):
        raise PrefixError(f"{str(prefix)!r}: a prefix can't hold line breaks or ':' (PATH)", "choose another with -p")
    if prefix.is_symlink():
        raise PrefixError(f"{prefix}: is a symbolic link to {os.readlink(prefix)}", "name the directory itself with -p")
    if prefix.exists() and not prefix.is_dir():
        raise PrefixError(f"{prefix}: is a file, not a directory", "choose another prefix with -p")
    nearest = space.existing(prefix.parent)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PrefixError(f"{nearest}: not writable; {prefix} can't be made", "choose another prefix with -p")


def _require_ours(prefix: Path, wanted: str, replace: bool) -> None:
    """Raise PrefixError unless `prefix` is free, or is an older one of ours and `replace` is set."""
    if not prefix.exists() or not any(prefix.iterdir()):
        return
    found = receipt.read(prefix)
    if found is None:
        kind = "a conda environment that this program didn't make" if (prefix / "conda-meta").is_dir() else "not empty"
        raise PrefixError(f"{prefix}: is {kind}; it is left alone", "choose another prefix with -p")
    if replace:
        return
    if found.get("fingerprint") == wanted:
        gone = receipt.missing(prefix, found)
        raise PrefixError(
            f"{prefix}: {len(gone)} of its files are missing or changed, e.g. {gone[0]}",
            "make it anew with --replace (packages that you added are lost)",
        )
    raise PrefixError(
        f"{prefix}: holds another environment of this program (made {found.get('made')} from {found.get('source')})",
        "make it anew with --replace, or choose another prefix with -p",
    )

"""The package cache: every package extracted once, verified, and shared by all prefixes and all runs at once.

CACHE/pkgs/KEY/               an extracted package; KEY is name-version-build.SHA (16 digits of the archive's SHA-256)
CACHE/pkgs/KEY.manifest.json  what it holds (package_manifest.py); may also be about a package in a layer
CACHE/pkgs/KEY.lock           held while it is extracted

Its files are 0644 or 0755 whatever the umask, because prefixes of every umask are hard-linked to them; nobody but the
owner can write there. Layers (SATENV_CACHE_LAYERS) are caches of others, as on a cluster's shared file system: what
they have is verified once, byte by byte, and then used in place; nothing is ever written to them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cogvideo_sat_env.base import cache_use, diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.cache_layers import find_file, trusted_layers
from cogvideo_sat_env.base.errors import SatenvError, VerificationError
from cogvideo_sat_env.base.permissions import cache_umask, require_private, shared_on_purpose
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.fetch.wanted import artefact_path
from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.install.package_manifest import PackageManifest, manifest_path
from cogvideo_sat_env.install.workers import WorkerPool

_COMPARED = ("info/index.json", "info/paths.json", "info/link.json")  # what decides how a package is linked


def key(artefact: CondaArtefact) -> str:
    """Return the name of a package in the package cache."""
    return f"{artefact.name}-{artefact.version}-{artefact.build}.{artefact.sha256[:16]}"


class PackageCache:
    """The package cache in `cache`, over read-only `layers`.

    With `full` no manifest is believed: everything is compared with its archive again, which has the lock's SHA-256.
    Raises PrefixError for a cache that others can write to.
    """

    def __init__(self, cache: Path, layers: Sequence[Path], progress: Progress, full: bool = False) -> None:
        self.packages = cache / "pkgs"
        self._layers, self._progress, self._full = layers, progress, full
        with diskspace.watch(cache, "the package cache"), cache_umask():
            self.packages.mkdir(parents=True, exist_ok=True)
        require_private(cache, self.packages)
        self._trusted = trusted_layers(layers, progress)

    def find(self, artefacts: Sequence[CondaArtefact], plain: bool = True) -> dict[str, PackageManifest]:
        """Return the manifests of the packages that are there unchanged, by the SHA-256 of the archive.

        Without `plain` the plain files aren't looked at: whoever links them does it then.
        """
        unique = list({a.sha256: a for a in artefacts}.values())
        known = {} if self._full else {a.sha256: m for a in unique if (m := self._recorded(a)) is not None}
        jobs = [{"manifest_path": str(m.path), "folder": str(m.folder)} for m in known.values()]
        if plain:
            with WorkerPool() as workers:
                changed = dict(zip(known, workers.run("verify", jobs), strict=True))
        else:
            changed = {sha: package_manifest.changed(m.path, m.folder, plain=False) for sha, m in known.items()}
        self.forget({a: (known[a.sha256].folder, name) for a in unique if (name := changed.get(a.sha256))})
        found = {sha: manifest for sha, manifest in known.items() if not changed[sha]}
        for manifest in found.values():
            cache_use.mark_used(manifest.path)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # hashing leaves the interpreter lock
            others = pool.map(self._verify_in_layer, [a for a in unique if a.sha256 not in found])
            return found | {manifest.sha256: manifest for manifest in others if manifest}

    def _recorded(self, artefact: CondaArtefact) -> PackageManifest | None:
        found = package_manifest.read(self._manifest_path(artefact))
        if not found or found.sha256 != artefact.sha256 or found.folder not in self._places(artefact):
            return None
        return found if self._is_safe(found.folder) else None

    def _is_safe(self, folder: Path) -> bool:
        """Whether only those can write to an extracted package's folder who can write to its cache."""
        try:
            found, cache = folder.stat(), folder.parent.stat()
        except OSError:
            return False
        return shared_on_purpose() or (found.st_uid in (0, cache.st_uid) and not found.st_mode & 0o022)

    def forget(self, changed: Mapping[CondaArtefact, tuple[Path, str]]) -> None:
        """Take packages for not extracted, because a file in their folder is not as recorded."""
        there = [f"{name} of {artefact.name}" for artefact, (folder, name) in changed.items() if folder.is_dir()]
        if len(there) > 1:  # all of them, in a cache that was copied
            others = f"{there[0]} and files of {len(there) - 1} other packages"
            self._progress.say(f"cache: {others} were changed; they are extracted again")
        elif there:
            self._progress.say(f"cache: {there[0]} was changed; it is extracted again")
        for artefact in changed:
            self._manifest_path(artefact).unlink(missing_ok=True)

    def load(self, artefacts: Sequence[CondaArtefact]) -> dict[str, PackageManifest]:
        """Return the manifests of packages that were just extracted. Raises SatenvError when one is gone again."""
        found = {}
        for artefact in artefacts:
            known = package_manifest.read(self._manifest_path(artefact))
            if known is None or known.sha256 != artefact.sha256:
                raise SatenvError(
                    f"{self._manifest_path(artefact)}: no longer there, though {artefact.name} was just extracted",
                    "something clears the cache while it is used: run it again, or choose another with SATENV_CACHE",
                )
            found[artefact.sha256] = known
        return found

    def archives_in_layers(self, artefacts: Sequence[CondaArtefact]) -> dict[str, Path]:
        """Return the archives that a layer has, hashed, by SHA-256: they needn't be fetched or copied."""
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(self._archive_in_layer, artefacts)
        return {a.sha256: path for a, path in zip(artefacts, found, strict=True) if path}

    def _archive_in_layer(self, artefact: CondaArtefact) -> Path | None:
        return find_file(self._layers, artefact_path(Path(), artefact.sha256, artefact.file_name), artefact.sha256)

    def _places(self, artefact: CondaArtefact) -> list[Path]:
        return [self.packages / key(artefact), *(layer / "pkgs" / key(artefact) for layer in self._trusted)]

    def _manifest_path(self, artefact: CondaArtefact) -> Path:
        return manifest_path(self.packages, key(artefact))

    def _verify_in_layer(self, artefact: CondaArtefact) -> PackageManifest | None:
        """Verify a layer's extracted package with the layer's archive: its own manifest isn't believed."""
        folder = next((place for place in self._places(artefact)[1:] if place.is_dir()), None)
        if folder is None or not self._is_safe(folder) or (archive := self._archive_in_layer(artefact)) is None:
            return None
        try:
            same = all((folder / name).read_bytes() == content for name, content in _info(archive).items())
            if not same or package_manifest.hash_files(folder, package_manifest.read_paths(folder)) is not None:
                return None
            made = PackageManifest(folder, artefact.sha256, archive.stat().st_size, self._manifest_path(artefact))
            found, paths = dict(package_manifest.walk(str(folder))), package_manifest.read_paths(folder)
            owner = folder.stat().st_uid
            if not all(stat.S_ISREG(found[e["_path"]].st_mode) for e in paths if package_manifest.is_plain(e)):
                return None
            if not all(package_manifest.is_only_of(owner, there) for there in found.values()):
                return None  # an older version extracted it, with the archive's own modes
        except (OSError, VerificationError):  # the layer's is incomplete: it is extracted from the archive instead
            return None
        package_manifest.write(self._manifest_path(artefact), made, found, paths)
        return made


def _info(archive: Path) -> dict[str, bytes]:
    import asyncio

    from rattler.package_streaming import PackageArchive

    async def read() -> Mapping[str, bytes | None]:
        return await (await PackageArchive.from_path(archive)).read_files(list(_COMPARED))

    return {name: content for name, content in asyncio.run(read()).items() if content is not None}

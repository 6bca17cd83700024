"""The package cache: every package extracted once, proven, and shared by all prefixes and all runs at once.

CACHE/pkgs/KEY/             an extracted package; KEY is name-version-build.SHA (16 digits of the archive's SHA-256)
CACHE/pkgs/KEY.proof.json   what was proven of it (package_manifest.py); may also be about a package in a layer
CACHE/pkgs/KEY.lock         held while it is extracted

Layers (SATENV_CACHE_LAYERS) are caches of others, as on a cluster's shared file system: what they have is proven once,
byte by byte, and then used in place; nothing is ever written to them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.artefacts import CondaArtefact
from cogvideo_sat_env.base.errors import InputError, SatenvError, VerificationError
from cogvideo_sat_env.base.hashing import sha256_file
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.fetch.archives import artefact_path
from cogvideo_sat_env.install import package_manifest
from cogvideo_sat_env.install.package_manifest import PackageManifest
from cogvideo_sat_env.install.workers import WorkerPool

_COMPARED = ("info/index.json", "info/paths.json", "info/link.json")  # what decides how a package is linked


def key(artefact: CondaArtefact) -> str:
    """Return the name of a package in the package cache."""
    return f"{artefact.name}-{artefact.version}-{artefact.build}.{artefact.sha256[:16]}"


def layers_from_environment() -> tuple[Path, ...]:
    """Return the folders of SATENV_CACHE_LAYERS (separated by ':'). Raises InputError for one that isn't there."""
    named = [Path(part).absolute() for part in os.environ.get("SATENV_CACHE_LAYERS", "").split(os.pathsep) if part]
    for folder in named:
        if not folder.is_dir():
            raise InputError(
                f"SATENV_CACHE_LAYERS: {folder}: no such folder; expected a cache of satenv (with artefacts/ in it)",
                "mend the variable, or unset it",
            )
    return tuple(named)


class PackageCache:
    """The package cache in `cache`, over read-only `layers`. With `full` every byte is hashed again before use."""

    def __init__(self, cache: Path, layers: Sequence[Path], progress: Progress, full: bool = False) -> None:
        self.packages = cache / "pkgs"
        self._layers, self._progress, self._full = layers, progress, full
        with diskspace.watch(cache, "the package cache"):
            self.packages.mkdir(parents=True, exist_ok=True)

    def find(self, artefacts: Sequence[CondaArtefact], plain: bool = True) -> dict[str, PackageManifest]:
        """Return the manifests of the packages that are there unchanged, by the SHA-256 of the archive.

        Without `plain` the plain files aren't looked at: whoever links them does it then.
        """
        unique = list({a.sha256: a for a in artefacts}.values())
        known = {a.sha256: noted for a in unique if (noted := self._noted(a)) is not None}
        jobs = [{"manifest_path": str(noted.path), "folder": str(noted.folder)} for noted in known.values()]
        if plain:
            with WorkerPool() as workers:
                changed = dict(zip(known, workers.run("verify", jobs), strict=True))
        else:
            changed = {
                sha: package_manifest.changed(noted.path, noted.folder, plain=False) for sha, noted in known.items()
            }
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # hashing leaves the interpreter lock
            found = list(pool.map(lambda a: self._judge(a, known.get(a.sha256), changed.get(a.sha256)), unique))
        return {proven.sha256: proven for proven in found if proven}

    def _noted(self, artefact: CondaArtefact) -> PackageManifest | None:
        noted = package_manifest.read(self._manifest_path(artefact))
        return noted if noted and noted.sha256 == artefact.sha256 and noted.folder in self._places(artefact) else None

    def _judge(
        self, artefact: CondaArtefact, noted: PackageManifest | None, different: str | None
    ) -> PackageManifest | None:
        if noted:
            if different is None and self._full:
                different = package_manifest.hash_files(noted.folder, package_manifest.read_paths(noted.folder))
            if different is None:
                return noted
            self.forget(artefact, noted.folder, different)
        return self._verify_in_layer(artefact)

    def forget(self, artefact: CondaArtefact, folder: Path, different: str) -> None:
        """Take a package for not extracted, because the file `different` in `folder` is not as noted."""
        if folder.is_dir():
            self._progress.say(f"cache: {different} of {artefact.name} was changed; it is extracted again")
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
        wanted = [(a, path) for a in artefacts if (path := self._archive_in_layer(a)) is not None]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            hashes = list(pool.map(lambda pair: sha256_file(pair[1]), wanted))
        return {a.sha256: path for (a, path), found in zip(wanted, hashes, strict=True) if found == a.sha256}

    def _archive_in_layer(self, artefact: CondaArtefact) -> Path | None:
        paths = (artefact_path(layer, artefact.sha256, artefact.file_name) for layer in self._layers)
        return next((path for path in paths if path.is_file() and os.access(path, os.R_OK)), None)

    def _places(self, artefact: CondaArtefact) -> list[Path]:
        return [self.packages / key(artefact), *(layer / "pkgs" / key(artefact) for layer in self._layers)]

    def _manifest_path(self, artefact: CondaArtefact) -> Path:
        return self.packages / f"{key(artefact)}.proof.json"

    def _verify_in_layer(self, artefact: CondaArtefact) -> PackageManifest | None:
        """Prove a layer's extracted package with the layer's archive: its own word for it isn't taken."""
        folder = next((place for place in self._places(artefact)[1:] if place.is_dir()), None)
        archive = self._archive_in_layer(artefact)
        if folder is None or archive is None or sha256_file(archive) != artefact.sha256:
            return None
        try:
            same = all((folder / name).read_bytes() == content for name, content in _info(archive).items())
            if not same or package_manifest.hash_files(folder, package_manifest.read_paths(folder)) is not None:
                return None
            made = PackageManifest(folder, artefact.sha256, archive.stat().st_size, self._manifest_path(artefact))
            found, paths = dict(package_manifest.walk(str(folder))), package_manifest.read_paths(folder)
            if not all(stat.S_ISREG(found[e["_path"]].st_mode) for e in paths if package_manifest.is_plain(e)):
                return None
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

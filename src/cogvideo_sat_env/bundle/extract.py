"""Members on their way out of a bundle: packages into the package cache, pip files into the file cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cogvideo_sat_env.base.artefacts import CondaArtefact, PipPin
from cogvideo_sat_env.bundle.verify_bundle import Sink
from cogvideo_sat_env.fetch.archives import artefact_path
from cogvideo_sat_env.install.extractor import Extractor


class Extract(Sink):
    """A package on its way out of the bundle: an archive for a moment, then extracted, then gone."""

    def __init__(self, artefact: CondaArtefact, scratch: Path, extractor: Extractor) -> None:
        self._artefact, self._extractor = artefact, extractor
        # the name decides how it is read, and two channels may use the same one
        folder = scratch / artefact.sha256[:16]
        folder.mkdir()
        self._path = folder / artefact.file_name
        self._stream = open(self._path, "wb", buffering=0)  # noqa: SIM115 - closed below

    def write(self, piece: bytes) -> None:
        """Take a piece."""
        view = memoryview(piece)
        while view:
            view = view[self._stream.write(view) :]

    def done(self) -> None:
        """Extract the verified archive."""
        self._stream.close()
        self._extractor.run(self._artefact, self._path)

    def close(self) -> None:
        """Remove the archive, or what there is of it."""
        self._stream.close()
        shutil.rmtree(self._path.parent, ignore_errors=True)


class Keep(Sink):
    """A pip file: small, and kept where the pip stage looks for it."""

    def __init__(self, pin: PipPin, cache: Path) -> None:
        self._path = artefact_path(cache, pin.sha256, pin.file_name)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._side = self._path.with_name(f"{pin.file_name}.{os.getpid()}.partial")
        self._stream = open(self._side, "wb")  # noqa: SIM115 - closed below

    def write(self, piece: bytes) -> None:
        """Take a piece."""
        self._stream.write(piece)

    def done(self) -> None:
        """Give the verified file its name."""
        self._stream.close()
        os.replace(self._side, self._path)

    def close(self) -> None:
        """Remove it unless it is whole."""
        self._stream.close()
        self._side.unlink(missing_ok=True)

"""`satenv image`: the environment of a lock on top of a base, as an OCI image layout, and recipes that do the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.cluster.oci import recipes
from cogvideo_sat_env.cluster.oci.base_image import open_base
from cogvideo_sat_env.cluster.oci.image_layout import WrittenImage, require_fits, write_layout
from cogvideo_sat_env.cluster.tree import made_for
from cogvideo_sat_env.create.create import CreateRequest
from cogvideo_sat_env.install import receipt

AT = Path("/opt/cogvideo-sat")


@dataclass(frozen=True)
class Image:
    """What image is asked for: where it goes and under which tag, on what, and the recipes that are wanted, too.

    `at` is where the environment is in a container, `compression` that of the layers: gzip, zstd or none.
    """

    out: Path
    base: Path
    at: Path = AT
    tag: str = "latest"
    compression: str = "gzip"
    dockerfile: Path | None = None
    apptainer: Path | None = None


def make(
    image: Image, create: Callable[[CreateRequest], Any], request: CreateRequest, progress: Progress
) -> WrittenImage:
    """Have `create` make the environment of `request`, write the image and the recipes. Raises what these raise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", image.tag):
        raise InputError(f"--tag {image.tag!r}: expected letters, digits, '.', '_' and '-'", "e.g. --tag 2026-11")
    if not re.fullmatch(r"(/[A-Za-z0-9._+-]+)+", str(image.at)):
        raise InputError(f"--at {image.at}: expected an absolute path of plain names", "e.g. --at /opt/cogvideo-sat")
    base = open_base(image.base)
    with made_for(image.at, create, request, progress) as place:
        found = receipt.read(place) or {}
        require_fits(base, place, str(image.at))
        texts = [
            (path, write(path.name, image.base.absolute(), str(image.at), place, found))
            for path, write in ((image.dockerfile, recipes.dockerfile), (image.apptainer, recipes.definition))
            if path is not None
        ]
        image.out.parent.mkdir(parents=True, exist_ok=True)
        written = write_layout(image.out, image.tag, image.compression, base, place, str(image.at), found, progress)
    for path, text in texts:
        write_atomically(path, text.encode("utf-8"))
    return written


def text(written: WrittenImage) -> str:
    """Return what was written, for people."""
    return (
        f"{written.path}: {len(written.layers)} layers, {human_bytes(written.size)}, {written.digest}\n"
        f"skopeo copy oci:{written.path}:{written.tag} DESTINATION; apptainer build FILE.sif "
        f"oci:{written.path}:{written.tag}\n"
    )


def facts(written: WrittenImage) -> dict[str, Any]:
    """Return what was written, for scripts."""
    return {
        "path": str(written.path), "tag": written.tag, "digest": written.digest, "bytes": written.size,
        "layers": [{"name": one.name, "digest": one.digest, "bytes": one.size} for one in written.layers],
    }  # fmt: skip

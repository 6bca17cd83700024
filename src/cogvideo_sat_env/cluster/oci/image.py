"""`satenv image`: the environment of a lock on top of a base, as an OCI image layout, and recipes that do the same."""

from __future__ import annotations

import re

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.cluster.oci import recipes
from cogvideo_sat_env.cluster.oci.base_image import open_base
from cogvideo_sat_env.cluster.oci.image_layout import Image, WrittenImage, require_fits, write_layout
from cogvideo_sat_env.cluster.tree import Make, made_for
from cogvideo_sat_env.create.create import CreateRequest
from cogvideo_sat_env.install import receipt


def make(image: Image, create: Make, request: CreateRequest, progress: Progress) -> WrittenImage:
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
        written = write_layout(image, base, place, found, progress)
    for path, text in texts:
        write_atomically(path, text.encode("utf-8"))
    return written

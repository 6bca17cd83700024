"""An OCI image layout: blobs by digest, a configuration, a manifest, an index; written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import posixpath
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_sat_env import __version__
from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.base.progress import Progress, human_bytes
from cogvideo_sat_env.cluster.oci.base_image import BaseImage, resolve
from cogvideo_sat_env.cluster.oci.groups import groups
from cogvideo_sat_env.cluster.oci.layers import Layer, add_files, write_layer

_CREATED = "2020-01-01T00:00:00Z"
_MANIFEST, _CONFIG = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "amd64": "amd64"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What image is asked for: where it goes and under which tag, on what, and the recipes that are wanted, too.

    `at` is where the environment is in a container, `compression` that of the layers: gzip, zstd or none.
    """

    out: Path
    base: Path
    at: Path = Path("/opt/cogvideo-sat")
    tag: str = "latest"
    compression: str = "gzip"
    dockerfile: Path | None = None
    apptainer: Path | None = None


@dataclass(frozen=True)
class WrittenImage:
    """What was written: the manifest's digest, and the layers."""

    path: Path
    tag: str
    digest: str
    layers: Sequence[Layer]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return what was written, for scripts."""
        return {
            "path": str(self.path), "tag": self.tag, "digest": self.digest, "bytes": self.size,
            "layers": [{"name": one.name, "digest": one.digest, "bytes": one.size} for one in self.layers],
        }  # fmt: skip

    def to_text(self) -> str:
        """Return what was written, for people."""
        source = f"oci:{self.path}:{self.tag}"
        return (
            f"{self.path}: {len(self.layers)} layers, {human_bytes(self.size)}, {self.digest}\n"
            f"skopeo copy {source} DESTINATION; apptainer build FILE.sif {source}\n"
        )


def require_fits(base: BaseImage, prefix: Path, at: str) -> None:
    """Raise InputError where the environment `prefix` can't be at `at` of `base`, or needs what that lacks."""
    parts = at.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        here = "/" + "/".join(parts[:end])
        kind = base.kind(here)
        if kind not in (None, "dir") or (kind == "dir" and end == len(parts)):
            raise InputError(
                f"{base.path}: has a {'folder' if kind == 'dir' else kind} at {here}; the environment goes to {at}",
                "name another path with --at",
            )
    for path in sorted((prefix / "bin").iterdir()):
        target = os.readlink(path) if path.is_symlink() else ""
        if target.startswith("/") and not target.startswith(f"{at}/") and resolve(base, target) is None:
            raise InputError(
                f"{base.path}: has no {target}, where {at}/bin/{path.name} leads: wheels use a Python outside of them",
                f"put that Python into the base, or name the base's own with --python (a Python that is at the same "
                f"path here, as {posixpath.join('/usr/bin', os.path.basename(target))})",
            )


def write_layout(
    image: Image, base: BaseImage, prefix: Path, receipt: Mapping[str, Any], progress: Progress
) -> WrittenImage:
    """Write the image of `prefix` on top of `base` to its folder; a layout there is replaced.

    Raises InputError, PrefixError (no space, or the folder is something else).
    """
    out, at = image.out, str(image.at)
    if os.path.lexists(out) and not (out / "oci-layout").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise PrefixError(f"{out}: is there already, and no image layout", "name another folder")
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    blobs = partial / "blobs" / "sha256"
    try:
        with diskspace.watch(out.parent, "the image"):
            blobs.mkdir(parents=True)
            layers = _layers(blobs, image, base, prefix, progress)
            config = _blob(blobs, _config(layers, at, receipt))
            labels = _labels(receipt)
            manifest = _blob(blobs, {
                "schemaVersion": 2, "mediaType": _MANIFEST, "config": {"mediaType": _CONFIG, **config},
                "layers": [
                    {"mediaType": one.media_type, "digest": one.digest, "size": one.size,
                     "annotations": {"org.opencontainers.image.title": one.name}} for one in layers
                ],
                "annotations": labels,
            })  # fmt: skip
            named = {
                "mediaType": _MANIFEST,
                **manifest,
                "annotations": {"org.opencontainers.image.ref.name": image.tag},
            }
            _write(partial / "index.json", {"schemaVersion": 2, "manifests": [named]})
            _write(partial / "oci-layout", {"imageLayoutVersion": "1.0.0"})
            old = out.with_name(f"{partial.name}.old")
            if out.exists():
                out.rename(old)
            try:
                partial.rename(out)
            except OSError:
                if old.exists():  # else there was none, and the error is the rename's own
                    old.rename(out)
                raise
            if old.exists():
                shutil.rmtree(old)
    finally:
        if partial.exists():
            shutil.rmtree(partial)
    return WrittenImage(out, image.tag, str(manifest["digest"]), layers)


def _layers(blobs: Path, image: Image, base: BaseImage, prefix: Path, progress: Progress) -> list[Layer]:
    at, kind = str(image.at), image.compression
    parts = at.strip("/").split("/")
    there = frozenset("/".join(parts[:end]) for end in range(1, len(parts)) if base.kind("/" + "/".join(parts[:end])))
    jobs: list[tuple[str, Callable[[Any], None]]] = [("base", base.add_to)]
    for name, files in groups(prefix).items():
        jobs.append((name, lambda archive, files=files: add_files(archive, prefix, at, files, there)))
    with (
        progress.task(f"Writing {len(jobs)} layers", len(jobs), "layers") as task,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        running = [pool.submit(write_layer, blobs, name, kind, add) for name, add in jobs]
        layers = []
        try:
            for one in running:
                layers.append(one.result())
                task.note(f"{layers[-1].name}, {human_bytes(layers[-1].size)}")
                task.advance(1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return layers


def _config(layers: Sequence[Layer], at: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "created": _CREATED, "architecture": _ARCHITECTURES.get(platform.machine().lower(), platform.machine()),
        "os": "linux",
        "config": {
            "Env": [f"PATH={at}/bin:{_PATH}"],
            "Entrypoint": ["/bin/sh", "-c", f'. {at}/bin/activate-cogvideo-sat && exec "$@"', "sh"],
            "Cmd": ["/bin/sh"], "Labels": _labels(receipt),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": _CREATED, "created_by": f"cogvideo-sat-env: {layer.name}"} for layer in layers],
    }  # fmt: skip


def _labels(receipt: Mapping[str, Any]) -> dict[str, str]:
    own = {key: str(receipt.get(key) or "") for key in ("lock", "lock_sha256", "source", "variant", "fingerprint")}
    return {
        "org.opencontainers.image.title": "cogvideo-sat-env",
        "org.opencontainers.image.version": __version__,
        **{f"cogvideo-sat-env.{key.replace('_', '-')}": value for key, value in own.items()},
    }


def _blob(blobs: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")

"""A Dockerfile and an Apptainer definition that make the same environment, from the same lock, on another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.command_name import CHECKOUT
from cogvideo_sat_env.base.errors import InputError

_TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


def dockerfile(file: str, base: Path, at: str, prefix: Path, receipt: Mapping[str, Any]) -> str:
    """Return a Dockerfile called `file` for the environment `prefix`.

    Raises InputError for a receipt without a lock of the project's.
    """
    if base.is_dir():
        start, argument, beside = "ARG BASE\nFROM ${BASE} AS base\n", "--build-arg BASE=IMAGE ", ""
    else:
        start, argument, beside = f"FROM scratch AS base\nADD {base.name} /\n", "", f", {base.name} copied into it"
    values = _values(at, prefix, receipt)
    template = (_TEMPLATES / "Dockerfile").read_text(encoding="utf-8")
    return template.format(file=file, start=start, build_arg=argument, beside=beside, **values)


def definition(file: str, base: Path, at: str, prefix: Path, receipt: Mapping[str, Any]) -> str:
    """Return an Apptainer definition called `file`. Raises InputError as `dockerfile` does."""
    if base.is_dir():
        start = f"Bootstrap: localimage\nFrom: {base}\n"
    else:
        start = f'Bootstrap: scratch\n\n%setup\n    tar -xf {base} -C "${{APPTAINER_ROOTFS}}"\n'
    template = (_TEMPLATES / "apptainer.def").read_text(encoding="utf-8")
    return template.format(file=file, start=start, **_values(at, prefix, receipt))


def _values(at: str, prefix: Path, receipt: Mapping[str, Any]) -> dict[str, str]:
    lock, source = str(receipt.get("lock") or ""), str(receipt.get("source") or "")
    if not lock or Path(lock).is_absolute():
        raise InputError(
            f"the environment is from {lock or 'no lock'}, not from a lock of the project; a recipe couldn't name it",
            "leave --dockerfile and --apptainer out, or make it from the project's own lock",
        )
    if source == "wheels":
        python = os.path.realpath(prefix / "bin" / "python")  # another version would take another lock
        path, options = f"locks/{lock}", f"--source wheels --python {python}"
    else:
        device = "cpu" if str(receipt.get("variant") or "").endswith("cpu") else "cuda"
        path, options = lock, f"--source channel --variant {device}"
    return {
        "lock": lock, "lock_sha256": str(receipt.get("lock_sha256") or ""), "lock_path": path, "source": source,
        "options": options, "at": at, "satenv": CHECKOUT,
    }  # fmt: skip

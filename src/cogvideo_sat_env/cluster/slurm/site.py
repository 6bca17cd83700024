"""A site file: what is true of one cluster, whoever submits what. Its schema is data/slurm-site.schema.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import DATA, variable_path
from cogvideo_sat_env.cluster.slurm import schema

VARIABLE = "SATENV_SITE"
WHAT = "a site file for job scripts"
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True)
class Site:
    """The values of a site file; the schema says what each means. `file` is where they come from."""

    file: Path | None = None
    name: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: str = ""
    gpu_request: str = "gpus-per-node"
    gpu_type: str = ""
    cpus_per_task: int = 0
    memory: str = ""
    sbatch: Sequence[str] = ()
    module_init: str = ""
    module_use: Sequence[str] = ()
    modules: Sequence[str] = ()
    interface: str = ""
    root: str = ""
    stage: str = ""
    scratch: str = ""
    node_tmp: str = ""
    proxies: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    signal_seconds: int = 300
    requeues: int = 20


def schema_of_site() -> dict[str, Any]:
    """Return the JSON Schema of a site file."""
    content: dict[str, Any] = json.loads((DATA / "slurm-site.schema.json").read_text(encoding="utf-8"))
    return content


def find(named: Path | None) -> Site:
    """Return the site of `named`, else of the file in SATENV_SITE, else one without any facts. Raises InputError."""
    path = named or variable_path(VARIABLE)
    return read(path) if path is not None else Site()


def read(path: Path) -> Site:
    """Read a site file. Raises InputError for one that is missing, has an unknown key or a value that can't be."""
    values = schema.read(path, WHAT, schema_of_site())
    for name, value in values.get("proxies", {}).items():
        if _PASSWORD.search(value):
            raise InputError(
                f"{path}: proxies.{name} holds a password; the job script would show it to everybody",
                f"leave it out, and export {name}_proxy in your own shell: Slurm hands it on",
            )
    return Site(file=Path(os.path.abspath(path)), **values)


def seconds(limit: str) -> int:
    """Return a time limit of Slurm in seconds: "30" (minutes), "30:00", "2:00:00", "1-12", "1-12:30:00"."""
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, secs = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:
        hours, (minutes, secs) = 0, [*parts, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs

"""Making locks: the real conda-lock solves, once per variant; what it can't do is done to its result."""

from __future__ import annotations

import itertools
import json
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import channel_url, split_archive, split_url
from cogvideo_sat_env.base.child import child_environment
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, SatenvError, SolveError, SourceError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.fetch import pip_config
from cogvideo_sat_env.lock import conda_lock, pip_index, pip_proxy, solve
from cogvideo_sat_env.lock.conda_frontend import CONSTRAINTS, EXCEPTION, UNTIL
from cogvideo_sat_env.lock.conda_lock import render_virtual_packages
from cogvideo_sat_env.lock.frozen import asked_channels, frozen_projects
from cogvideo_sat_env.lock.read import WHEELHOUSE, load_lock
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import conda_lock_lookup, conda_to_pypi
from cogvideo_sat_env.spec.variants import Variant


@dataclass(frozen=True)
class Solver:
    """What locks are made with.

    `frozen` holds metadata in place of the channels' and the index's own; `asked` says, by base URL, where a channel is
    read that isn't served there yet; `conda` is the user's conda, mamba or micromamba in place of our front-end. What
    was published after `until` (UTC) is passed over.
    """

    frozen: Path | None = None
    conda: Path | None = None
    asked: Mapping[str, str] | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Locked:
    """The lock of one variant in conda-lock's format, bytes by SHA-256, and names whose age is unknown."""

    content: dict
    sizes: dict[str, int]
    undated: tuple[str, ...] = ()


def lock_variant(
    environment: Environment,
    variant: Variant,
    solver: Solver,
    *,
    update: Sequence[str] = (),
    previous: dict | None = None,
    progress: Progress,
) -> Locked:
    """Lock one variant, whose own environment this is, with conda-lock.

    With `update`, everything of `previous` that needn't move stays.
    Raises SolveError with the solver's reason, SourceError, InputError.
    """
    with (
        scratch_folder("satenv-lock-") as work,
        asked_channels(environment.channels, solver.frozen, solver.asked) as channels,
    ):
        solve.require_answers(list(channels))
        pages = index_pages(solver.frozen) if environment.pip else None
        (work / "virtual-packages.yml").write_text(render_virtual_packages(variant), encoding="utf-8")
        (work / "names.json").write_text(json.dumps(conda_lock_lookup()), encoding="utf-8")
        if update:
            if previous is None:
                raise InputError(f"{variant.lock}: no lock to update", f"make one first: {satenv('lock')}")
            _write_previous(work / "conda-lock.yml", previous, channels)
        run = _CondaLockRun(
            work, solver.conda or _front_end(work), environment, variant, channels, tuple(update), solver
        )
        with progress.task(f"{variant.id}: locking", 3, "steps") as task:
            task.note("solving the conda part")
            content = run.lock()
            task.advance(1)
            served = pip_proxy.Served("")
            if pages:
                task.note("resolving the pip part")
                with pip_proxy.proxy(pages, _provided(content), iso(solver.until)) as served:
                    content = run.lock(served)
            task.advance(1)
            task.note("sizes and rendering")
            sizes, undated = _facts(content, list(channels), variant.platform, served)
            _complete(content, environment, variant, channels)
            if update and previous is not None:
                _keep_unmoved(content, previous)
            task.advance(1)
    return Locked(content, sizes, tuple(undated) if solver.until else ())


def index_pages(frozen: Path | None) -> pip_proxy.Pages:
    """Return the index that pip's resolver is to ask: what was frozen of one, else the site's own."""
    projects = frozen_projects(frozen) if frozen else None
    return pip_proxy.SitePages(pip_config.index_urls()[0]) if projects is None else pip_proxy.FrozenPages(projects)


def iso(until: datetime | None) -> str:
    """Return a time as the solvers compare it; "" for none."""
    return until.strftime("%Y-%m-%dT%H:%M:%S") if until else ""


def _front_end(work: Path) -> Path:
    """Write the executable that conda-lock takes for conda."""
    script = work / "conda"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cogvideo_sat_env.lock.conda_frontend "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@dataclass(frozen=True)
class _CondaLockRun:
    """One variant in conda-lock's hands, in the folder `work`."""

    work: Path
    engine: Path
    environment: Environment
    variant: Variant
    channels: Mapping[str, str]
    update: tuple[str, ...]
    solver: Solver

    def lock(self, index: pip_proxy.Served | None = None) -> dict:
        """Run conda-lock; without `index` on the conda part alone."""
        source: dict = {"channels": list(self.channels), "dependencies": [str(spec) for spec in self.environment.conda]}
        if index:
            source["dependencies"].append({"pip": [str(spec) for spec in self.environment.pip]})
            source |= {"pip-repositories": [index.url], "allow-pypi-requests": False}
        (self.work / "environment.yml").write_text(yaml.safe_dump(source, sort_keys=False), encoding="utf-8")
        variables = child_environment() | {
            CONSTRAINTS: json.dumps([str(spec) for spec in self.environment.conda]),
            UNTIL: iso(self.solver.until),
            "TMPDIR": str(self.work),  # what it leaves goes with the folder
            "POETRY_CACHE_DIR": str(self.work / "poetry"),  # its key is the proxy's port, which another run had
        }
        lockfile = self.work / "conda-lock.yml"
        child = subprocess.run(self._command(lockfile), capture_output=True, text=True, check=False, env=variables)
        if child.returncode != 0:
            raise self._failure(child, sorted(set(index.refusals)) if index else [])
        return load_lock(lockfile)[0]

    def _command(self, lockfile: Path) -> list[str]:
        options = {
            "--conda": str(self.engine),
            "--file": str(self.work / "environment.yml"),
            "--lockfile": str(lockfile),
            "--platform": self.variant.platform,
            "--virtual-package-spec": str(self.work / "virtual-packages.yml"),
            "--pypi_to_conda_lookup_file": (self.work / "names.json").as_uri(),
        }
        command = [sys.executable, "-m", "conda_lock", "lock", *(part for pair in options.items() for part in pair)]
        return command + [part for name in self.update for part in ("--update", name)]

    def _failure(self, child: subprocess.CompletedProcess[str], refusals: Sequence[str]) -> SatenvError:
        name, frozen = self.variant.id, self.solver.frozen
        if refusals and frozen and (frozen / pip_index.PATH).is_file():
            return InputError(
                f"{frozen}: the frozen metadata lacks what {name} needs of the package index: {'; '.join(refusals)}",
                f"freeze again: {satenv(f'freeze {frozen}')}",
            )
        if refusals:
            return SourceError(
                f"the package index refused what {name} needs: {', '.join(refusals)}",
                "check pip's index-url (pip config list) and the network",
            )
        if f'"{EXCEPTION}": "{SourceError.__name__}"' in child.stdout + child.stderr:
            return SourceError(f"{name}: {_reason(child)}", "check the network and the channels")
        return SolveError(f"conda-lock found no solution for {name}:\n{_reason(child)}", "change what it names")


def _provided(content: dict) -> dict[str, str]:
    """Return PyPI name and version of the conda packages that conda-lock takes for installed distributions."""
    return {
        conda_to_pypi(entry["name"]): entry["version"]
        for entry in content["package"]
        if entry["manager"] == "conda" and "python" in entry["dependencies"]
    }


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    """Take the solver's reason out of conda-lock's output; all of its end where there is none."""
    output = child.stdout + child.stderr
    kept = [
        line
        for line in output.splitlines()
        if line.strip() and not line.startswith(("INFO:", "    Command:", "    STD", "Traceback", "  File", "Locking"))
    ]
    for index, line in enumerate(kept):
        if line.startswith("Could not lock the environment"):
            # then come the solver's own words; what conda-lock adds to them is the answer once more and its own stack
            error = itertools.takewhile(lambda line: not line.startswith('{"success"'), kept[index : index + 40])
            return "\n".join(error)
    return "\n".join(kept[-15:])


def _write_previous(path: Path, previous: dict, channels: Mapping[str, str]) -> None:
    """Write the lock to be updated as conda-lock expects it: with the channels that are asked now."""
    local = {real: asked for asked, real in channels.items()}
    content = json.loads(json.dumps(previous))
    for channel in content["metadata"]["channels"]:
        channel["url"] = local[channel_url(channel["url"])]
    for entry in content["package"]:
        for real, asked in local.items():
            if entry["manager"] == "conda" and entry["url"].startswith(real + "/"):
                entry["url"] = asked + entry["url"].removeprefix(real)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _facts(
    content: dict, channels: list[str], platform: str, served: pip_proxy.Served
) -> tuple[dict[str, int], list[str]]:
    """Return what conda-lock's format has no place for: bytes by SHA-256, and the names of unknown age."""
    packages = [split_archive(split_url(e["url"])[2]) for e in content["package"] if e["manager"] == "conda"]
    records = solve.lookup(channels, packages, platform)
    sizes = {record["sha256"]: record["size"] for record in records if record.get("sha256") and record.get("size")}
    files = {e["hash"]["sha256"]: e["url"] for e in content["package"] if e["manager"] == "pip"}
    known = {sha256: served.sizes[sha256] for sha256 in files if sha256 in served.sizes}
    asked = {sha256: url for sha256, url in files.items() if sha256 not in known}
    undated = {record["name"] for record in records if not record.get("timestamp")}
    undated |= {e["name"] for e in content["package"] if e["manager"] == "pip"} & served.undated
    return sizes | known | pip_proxy.file_sizes(asked), sorted(undated)


def _complete(content: dict, environment: Environment, variant: Variant, channels: Mapping[str, str]) -> None:
    """Do to conda-lock's result what conda-lock can't: real channels, no index host, hashes of the real source."""
    named = map(Address, environment.channels)  # a lock is given to others: what is secret isn't written
    content["metadata"]["channels"] = [{"url": str(a), "used_env_vars": a.variables()} for a in named]
    content["metadata"]["sources"] = [variant.environment]
    content["metadata"]["content_hash"] = {variant.platform: conda_lock.content_hash(environment, variant)}
    for entry in content["package"]:
        if entry["manager"] == "pip":
            entry["url"] = f"{WHEELHOUSE}/{split_url(entry['url'])[2]}"
            continue
        for asked, real in channels.items():
            url, base = (re.sub(r"\$\{(\w+)\}", r"$\1", text) for text in (entry["url"], asked))
            if url.startswith(base + "/"):  # conda-lock writes $NAME as ${NAME}
                channel, subdir, file_name = split_url(real + url.removeprefix(base))
                entry["url"] = f"{channel}/{subdir}/{file_name}"
        entry["url"] = str(Address(entry["url"]))


def _keep_unmoved(content: dict, previous: dict) -> None:
    """Put back the entries that an update left alone: conda-lock writes their dependencies anew in other words."""
    before = {(entry["manager"], entry["url"], entry["hash"]["sha256"]): entry for entry in previous["package"]}
    content["package"] = [
        before.get((entry["manager"], entry["url"], entry["hash"]["sha256"]), entry) for entry in content["package"]
    ]

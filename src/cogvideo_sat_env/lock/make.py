"""Making locks: the real conda-lock solves, once per variant; what it can't do is done to its result."""

from __future__ import annotations

import itertools
import json
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import yaml

from cogvideo_sat_env.base.address import Address
from cogvideo_sat_env.base.artefacts import channel_url, split_archive, split_url
from cogvideo_sat_env.base.child import child_environment
from cogvideo_sat_env.base.command_name import satenv
from cogvideo_sat_env.base.errors import InputError, MissingToolError, SolveError, SourceError
from cogvideo_sat_env.base.progress import Progress
from cogvideo_sat_env.base.scratch import scratch_folder
from cogvideo_sat_env.fetch import pip_config
from cogvideo_sat_env.lock import conda_lock, pip_proxy, solve
from cogvideo_sat_env.lock.conda_frontend import CONSTRAINTS, EXCEPTION
from cogvideo_sat_env.lock.conda_lock import render_virtual_packages
from cogvideo_sat_env.lock.frozen import asked_channels
from cogvideo_sat_env.lock.read import WHEELHOUSE, load_lock
from cogvideo_sat_env.spec.environment import Environment
from cogvideo_sat_env.spec.pypi_names import conda_lock_lookup
from cogvideo_sat_env.spec.variants import Variant


def lock_variant(
    environment: Environment,
    variant: Variant,
    *,
    frozen: Path | None,
    conda: Path | None,
    update: Sequence[str],
    previous: dict | None,
    progress: Progress,
    asked: Mapping[str, str] | None = None,
) -> tuple[dict, dict[str, int]]:
    """Lock one variant with conda-lock; return the lock's content (conda-lock's format) and bytes by SHA-256.

    `environment` is the variant's own; `frozen` holds channel metadata to lock against in place of the channels;
    `asked` says, by base URL, where a channel is read that isn't served there yet; `conda` is the user's conda, mamba
    or micromamba in place of our front-end; with `update`, everything of `previous` that needn't move stays.
    Raises SolveError with the solver's reason, SourceError, MissingToolError, InputError.
    """
    with (
        scratch_folder("satenv-lock-") as folder,
        asked_channels(environment.channels, frozen, asked) as channels,
    ):
        solve.require_answers(list(channels))
        work = Path(folder)
        (work / "virtual-packages.yml").write_text(render_virtual_packages(variant), encoding="utf-8")
        (work / "names.json").write_text(json.dumps(conda_lock_lookup()), encoding="utf-8")
        if update:
            if previous is None:
                raise InputError(f"{variant.lock}: no lock to update", f"make one first: {satenv('lock')}")
            _write_previous(work / "conda-lock.yml", previous, channels)
        engine = conda or _front_end(work)
        with progress.task(f"{variant.id}: locking", 3, "steps") as task:
            task.note("solving the conda part")
            content = _conda_lock(work, engine, environment, variant, channels, (), update)
            task.advance(1)
            if environment.pip:
                task.note("resolving the pip part")
                content = _conda_lock(work, engine, environment, variant, channels, _provided(content), update)
            task.advance(1)
            task.note("sizes and rendering")
            sizes = _sizes(content, list(channels), variant.platform)
            _complete(content, environment, variant, channels)
            if update and previous is not None:
                _keep_unmoved(content, previous)
            task.advance(1)
    return content, sizes


def _front_end(work: Path) -> Path:
    """Write the executable that conda-lock takes for conda."""
    script = work / "conda"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cogvideo_sat_env.lock.conda_frontend "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def _conda_lock(
    work: Path,
    engine: Path,
    environment: Environment,
    variant: Variant,
    channels: Mapping[str, str],
    provided: Mapping[str, str] | tuple[()],
    update: Sequence[str],
) -> dict:
    """Run conda-lock in `work`; without `provided` (PyPI names that conda brings) on the conda part alone."""
    source: dict = {"channels": list(channels), "dependencies": [str(spec) for spec in environment.conda]}
    lockfile = work / "conda-lock.yml"
    command = [
        sys.executable,
        "-m",
        "conda_lock",
        "lock",
        "--conda",
        str(engine),
        "--file",
        str(work / "environment.yml"),
        "--lockfile",
        str(lockfile),
        "--platform",
        variant.platform,
        "--virtual-package-spec",
        str(work / "virtual-packages.yml"),
        "--pypi_to_conda_lookup_file",
        (work / "names.json").as_uri(),
        *[part for name in update for part in ("--update", name)],
    ]
    with ExitStack() as stack:
        refusals: list[str] = []
        if provided:
            index, refusals = stack.enter_context(pip_proxy.proxy(pip_config.index_urls()[0], provided))
            source["dependencies"].append({"pip": [str(spec) for spec in environment.pip]})
            source |= {"pip-repositories": [index], "allow-pypi-requests": False}
        (work / "environment.yml").write_text(yaml.safe_dump(source, sort_keys=False), encoding="utf-8")
        variables = child_environment() | {
            CONSTRAINTS: json.dumps([str(spec) for spec in environment.conda]),
            "TMPDIR": str(work),  # what it leaves goes with the folder
        }
        try:
            child = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        except OSError as error:
            raise MissingToolError(
                f"conda-lock can't be run: {error}", "run scripts/satenv, which brings it"
            ) from error
    if child.returncode != 0 and refusals:
        raise SourceError(
            f"the package index refused what {variant.id} needs: {', '.join(sorted(set(refusals)))}",
            "check pip's index-url (pip config list) and the network",
        )
    if child.returncode != 0 and f'"{EXCEPTION}": "{SourceError.__name__}"' in child.stdout + child.stderr:
        raise SourceError(f"{variant.id}: {_reason(child)}", "check the network and the channels")
    if child.returncode != 0:
        raise SolveError(f"conda-lock found no solution for {variant.id}:\n{_reason(child)}", "change what it names")
    return load_lock(lockfile)[0]


def _provided(content: dict) -> dict[str, str]:
    """Return PyPI name and version of the conda packages that conda-lock takes for installed distributions."""
    names = {entry["conda_name"]: name for name, entry in conda_lock_lookup().items()}
    return {
        names.get(entry["name"], entry["name"]): entry["version"]
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
            said = itertools.takewhile(lambda line: not line.startswith('{"success"'), kept[index : index + 40])
            return "\n".join(said)
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


def _sizes(content: dict, channels: list[str], platform: str) -> dict[str, int]:
    """Return bytes by SHA-256 of conda packages and pip files: conda-lock's format has no place for them."""
    packages = [split_archive(split_url(e["url"])[2]) for e in content["package"] if e["manager"] == "conda"]
    sizes = {
        record["sha256"]: record["size"]
        for record in solve.lookup(channels, packages, platform)
        if record.get("sha256") and record.get("size")
    }
    files = {e["hash"]["sha256"]: e["url"] for e in content["package"] if e["manager"] == "pip"}
    return sizes | pip_proxy.file_sizes(files)


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

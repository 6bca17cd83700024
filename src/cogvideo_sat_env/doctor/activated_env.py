"""The environment variables that a job of the prefix gets: the user's own, as activation changes them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.children import run_child

# Leftovers of a launcher: a probe is a job of one process. Everything else of the user's stays: a job would have it.
REMOVED = (
    "__PYVENV_LAUNCHER__",
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CROSS_RANK", "CROSS_SIZE",
    "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_USE_AGENT_STORE",  # with it rank 0 waits for a store that torchrun doesn't offer to the probe
)  # fmt: skip
_LEAST = ("HOME", "USER", "LOGNAME", "LANG", "PATH", "TMPDIR")  # what every login shell has
_UNSET = "***unset***"  # conda's mark for a variable that was removed with `conda env config vars unset`
_LIMIT = 20.0  # seconds for the scripts

_DUMP = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


@dataclass(frozen=True)
class ActivatedEnvironment:
    """The captured environment.

    env       all variables for a process of the prefix
    sets      those that activation set or changed (PATH and CONDA_* left out)
    scripts   the activation scripts that were sourced, in order
    problems  one line for each thing that went wrong; the environment is then what could be had
    """

    env: dict[str, str]
    sets: dict[str, str]
    scripts: tuple[str, ...]
    problems: tuple[str, ...]


def capture(prefix: Path, workdir: Path, base: Mapping[str, str] | None = None) -> ActivatedEnvironment:
    """Work out the environment that `conda activate PREFIX` gives in a shell with the variables `base`.

    Order as in conda: PATH and CONDA_*, the declared variables (etc/conda/env_vars.d/*.json, then conda-meta/state),
    then etc/conda/activate.d/*.sh sourced in one shell. `workdir` takes two small temporary files.
    """
    start = {name: value for name, value in (os.environ if base is None else base).items() if name not in REMOVED}
    problems: list[str] = []
    declared = _declared(prefix, problems)
    folder = prefix / "etc" / "conda" / "activate.d"
    scripts = sorted(folder.glob("*.sh")) if folder.is_dir() else []
    # a second time from almost nothing: what is set here comes from the environment, not from the user's shell
    least: dict[str, str] = {name: start[name] for name in _LEAST if name in start}
    with ThreadPoolExecutor(1) as pool:
        cleanly = pool.submit(_activate, prefix, least, declared, scripts, workdir / "clean.json", [])
        env = _activate(prefix, start, declared, scripts, workdir / "activated.json", problems)
        clean = cleanly.result()
    plain = {"PATH", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "SHLVL", "_", "PWD", "OLDPWD"}
    sets = {name: value for name, value in sorted(clean.items()) if name not in plain and least.get(name) != value}
    return ActivatedEnvironment(env, sets, tuple(path.name for path in scripts), tuple(problems))


def unchanged(base: Mapping[str, str]) -> ActivatedEnvironment:
    """Return the variables of a job that activates nothing, whose Python is used as it is."""
    return ActivatedEnvironment({name: value for name, value in base.items() if name not in REMOVED}, {}, (), ())


def _activate(
    prefix: Path,
    start: Mapping[str, str],
    declared: Mapping[str, str],
    scripts: list[Path],
    target: Path,
    problems: list[str],
) -> dict[str, str]:
    env = dict(start)
    env["PATH"] = os.pathsep.join([str(prefix / "bin"), env.get("PATH", os.defpath)])
    env |= {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": str(prefix), "CONDA_SHLVL": "1"}
    for name, value in declared.items():
        if value == _UNSET:
            env.pop(name, None)
        else:
            env[name] = value
    return _source(scripts, env, target, problems) if scripts else env


def _declared(prefix: Path, problems: list[str]) -> dict[str, str]:
    """Return the variables that packages and the spec's `variables:` declare, as conda merges them."""
    values: dict[str, str] = {}
    folder = prefix / "etc" / "conda" / "env_vars.d"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        values |= _strings(_read_json(path, problems), path, problems)
    state = prefix / "conda-meta" / "state"
    if state.is_file():
        content = _read_json(state, problems)
        values |= _strings(content.get("env_vars") or {}, state, problems)
    return values


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path}: {error}; expected a JSON object")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: expected a JSON object")
        return {}
    return content


def _strings(content: object, path: Path, problems: list[str]) -> dict[str, str]:
    if not isinstance(content, dict):
        problems.append(f"{path}: expected an object of variables")
        return {}
    odd = [name for name, value in content.items() if not isinstance(value, str)]
    if odd:
        problems.append(f"{path}: the value of {odd[0]} is not a text")
    return {name: value for name, value in content.items() if isinstance(value, str)}


def _source(scripts: list[Path], env: dict[str, str], target: Path, problems: list[str]) -> dict[str, str]:
    shell = which("bash", path=env["PATH"]) or "/bin/sh"  # conda-forge's compiler scripts use bash's features
    target.unlink(missing_ok=True)
    # the status of a script says nothing (`[ -n "$X" ] && ...` as its last line is common): conda ignores it too
    lines = 'satenv_out=$1; satenv_python=$2; shift 2; for satenv_script in "$@"; do . "$satenv_script"; done; '
    lines += f'exec "$satenv_python" -I -S -c "{_DUMP}" "$satenv_out"'
    command = [shell, "-c", lines, "activate", str(target), sys.executable, *map(str, scripts)]
    done = run_child(command, _LIMIT, env, target.parent)
    if done.code is None:
        names = ", ".join(path.name for path in scripts)
        problems.append(f"the activation scripts don't end within {_LIMIT:.0f} s: {names}")
        return env
    words = _without_noise(done.stderr, shell, env)
    if words:
        problems.append(f"the activation scripts print: {words[-1][:300]}")
    if not target.is_file():
        problems.append(done.problem or f"the activation scripts end the shell (exit code {done.code})")
        return env
    try:
        found: dict[str, str] = json.loads(target.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{target}: cut off at {target.stat().st_size:,} bytes; expected room for the doctor's temporary files",
            "ulimit -f unlimited, or export TMPDIR with a folder that has 1 GB of room",
        ) from error
    for name in ("satenv_out", "satenv_python", "satenv_script"):  # only there if a script uses `set -a`
        found.pop(name, None)
    if "LC_CTYPE" not in env and found.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
        del found["LC_CTYPE"]  # Python itself sets it in the C locale (PEP 538)
    return found


def _without_noise(stderr: str, shell: str, env: Mapping[str, str]) -> list[str]:
    """Return the lines that aren't printed without the scripts too: notes on a locale or a preload that isn't there."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if not lines:
        return []
    noise = run_child([shell, "-c", "id -u >/dev/null"], _LIMIT, env).stderr
    known = {_general(line) for line in noise.splitlines()}
    return [line for line in lines if _general(line) not in known]


def _general(line: str) -> str:
    """Return a line without what differs between programs: its first word and numbers."""
    return re.sub(r"\d+", "0", line.partition(": ")[2] or line).strip()

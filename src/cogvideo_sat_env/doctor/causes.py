"""Which of the user's own variables keeps the environment's Python from working: found by trying without each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.doctor.children import run_child

_START_LIMIT = 10.0  # seconds for an interpreter that imports nothing heavy
# what a probe's process needs before it comes to its check, and whether the environment's packages are found
_START = """
import ctypes, dataclasses, importlib.metadata, importlib.util, json, pathlib, signal, subprocess, sys, traceback
found = importlib.util.find_spec("torch")
print(json.dumps([sys.prefix, found and found.origin]))
"""


@dataclass(frozen=True)
class Suspect:
    """A setting of the user's that changes what Python or the dynamic loader loads.

    shown   it and its value, for the report
    remedy  what to type to be rid of it
    env     the variables without it: None for one that is unset
    """

    shown: str
    remedy: str
    env: Mapping[str, str | None]

    def without(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return `environ` without this setting."""
        changed = {**environ, **self.env}
        return {name: value for name, value in changed.items() if value is not None}


# Where a Python that isn't of our making has its packages: with these a site's module is what it is.
_PLACES = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")


def suspects(environ: Mapping[str, str], user_site: bool = False, foreign: bool = False) -> list[Suspect]:
    """Return the settings of `environ` that can be to blame; with `user_site` also the packages in the user's home.

    `foreign`: the Python is used as it is, so that its packages may rightly be where the user's variables say.
    """
    found = [
        Suspect(f"{name}={environ[name]}", f"unset {name}", {name: None})
        for name in sorted(environ)
        if name.startswith(("PYTHON", "LD_", "GLIBC_TUNABLES", "MALLOC_"))
        and name != "PYTHONNOUSERSITE"
        and not (foreign and name in _PLACES)
    ]
    if user_site and not foreign and not environ.get("PYTHONNOUSERSITE"):
        found.append(
            Suspect("the packages of the user site (~/.local)", "export PYTHONNOUSERSITE=1", {"PYTHONNOUSERSITE": "1"})
        )
    return found


def start_culprits(python: Path, env: Mapping[str, str], candidates: Sequence[Suspect], cwd: Path) -> list[Suspect]:
    """Return the suspects because of which `python` doesn't start, or finds other packages; none when all is well."""

    def start(variables: Mapping[str, str]) -> str | None:
        done = run_child([str(python), "-c", _START], env=variables, limit=_START_LIMIT, cwd=cwd)
        lines = done.stdout.strip().splitlines()
        return lines[-1] if done.code == 0 and lines else None

    if not candidates:
        return []
    with ThreadPoolExecutor(2) as pool:
        right, now = pool.map(start, (_without_all(env, candidates), env))
    if right is None or now == right:  # broken without them too: the checks say how
        return []
    return next(([one] for one in candidates if start(one.without(env)) == right), list(candidates))


def import_culprits(
    python: Path, env: Mapping[str, str], candidates: Sequence[Suspect], modules: Sequence[str], cwd: Path, limit: float
) -> list[Suspect]:
    """Return the suspects without which `modules` can be imported; none when they aren't to blame.

    At most `limit` seconds for each trial; of many suspects the first few are tried alone.
    """

    def works(variables: Mapping[str, str]) -> bool:
        code = f"import importlib; [importlib.import_module(name) for name in {list(modules)!r}]"
        return run_child([str(python), "-c", code], env=variables, limit=limit, cwd=cwd).code == 0

    if not candidates or not works(_without_all(env, candidates)):
        return []
    if len(candidates) == 1:
        return list(candidates)
    return next(([one] for one in candidates[:6] if works(one.without(env))), list(candidates))


def _without_all(env: Mapping[str, str], candidates: Sequence[Suspect]) -> dict[str, str]:
    variables = dict(env)
    for one in candidates:
        variables = one.without(variables)
    return variables

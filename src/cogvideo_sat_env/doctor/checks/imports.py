"""Imports: what SAT and CogVideo's sat/ import, alone, together, in both orders, and name by name."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from ._prefix import installed
from ._probe import (
    ProbeOutcome,
    ProbeRequest,
    failed,
    last_error,
    loader_errors,
    one_line,
    passed,
    run_joined,
    some,
    warning,
)

_LIMIT = 180.0  # seconds for one module: cold parallel file systems need more than a minute
_TORCHVISION, _WEBDATASET = "torchvision-0.26", "webdataset-0.2.88"

# Imported on the way to training and sampling, brought by the requirements; found by blocking each (facts of 2026-11).
TRANSITIVE = ("PIL", "filelock", "packaging", "requests", "tqdm", "yaml")
TRAINING_TRANSITIVE = ("hjson", "pandas", "psutil", "pyarrow", "regex")

# Modules of SwissArmyTransformer that nothing on that way imports, by what they ask for and nobody declares.
_UNUSED_BY = ("icetk", "localAttention", "nltk", "sat.generation.sampling", "xformers", "cpm_kernels", "bitsandbytes")
_NO_NAME = "no such name"


def alone(request: ProbeRequest) -> ProbeOutcome:
    """Import each module of the closure in a process of its own; two at a time."""
    modules = _closure(request)
    # garbage collection is a fifth of the time
    bad = _problems(request, {name: f"import gc; gc.disable(); import {name}" for name in modules})
    if bad:
        return failed(f"{len(bad)} of {len(modules)} modules fail alone: {_named(bad, 3)}", problems=bad)
    return passed(f"{len(modules)} modules import, each in its own process, without a loader error")


def together(request: ProbeRequest) -> ProbeOutcome:
    """Import all modules of the closure in this process, in the order of the requirements."""
    modules = _closure(request)
    bad = {}
    gc.disable()  # to look through what stays is a fifth of the time
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a foreign module raises is the finding
            bad[name] = one_line(error)
    gc.freeze()  # the checks that follow in this process import some more
    gc.enable()
    if bad:
        return failed(f"{len(bad)} of {len(modules)} modules fail: {_named(bad)}", problems=bad)
    return passed(f"{len(modules)} modules import in one process")


def order(request: ProbeRequest) -> ProbeOutcome:
    """Use decord and torch in both orders of import; a crash when Python ends counts too."""
    use = "assert float(torch.ones(64, 64).matmul(torch.ones(64, 64)).sum()) == 262144.0; decord.cpu(0)"
    problems = _problems(request, {names: f"import {names}; {use}" for names in ("decord, torch", "torch, decord")})
    bad = [f"{name}: {problem}" for name, problem in problems.items()]
    if bad and "torch, decord" not in problems and "decord2" in installed():
        finding = f"decord2 crashes when it is imported before torch ({bad[0]})"
        return warning(finding, "import torch first, as CogVideo does")
    if bad:
        return failed("order of import " + "; ".join(bad), problems=bad)
    return passed("decord before torch and torch before decord both work")


def upstream_names(request: ProbeRequest) -> ProbeOutcome:
    """Look up every name that upstream's sat/ takes from other packages; the table is scripts/upstream-names'."""
    table = request.inputs["upstream_names"]
    wanted = [*table["data"].items(), *([] if request.data_only else table["training"].items())]
    bad: dict[str, str] = {}
    count = 0
    for module, names in wanted:
        try:
            found = importlib.import_module(module)
        except Exception as error:  # whatever a foreign module raises is the finding
            bad[module] = one_line(error)
            continue
        for name in names:
            count += 1
            try:
                if not _has(found, name):
                    bad[f"{module}.{name}"] = _NO_NAME
            except Exception as error:  # transformers imports a name when it is asked for
                bad[f"{module}.{name}"] = one_line(error)
    if bad:
        ledger = tuple(
            entry for start, entry in (("torchvision.io", _TORCHVISION), ("webdataset", _WEBDATASET))
            if any(name.startswith(start) for name in bad)
        )  # fmt: skip
        bad = dict(sorted(bad.items(), key=lambda item: item[1] == _NO_NAME))  # why a module isn't there says most
        return failed(f"upstream's sat/ imports what is not there: {_named(bad)}", ledger=ledger, problems=bad)
    commit = str(table["commit"])
    return passed(f"all {count} names that upstream's sat/ uses are there (commit {commit[:7]})", commit=commit)


def sat_modules(request: ProbeRequest) -> ProbeOutcome:
    """Import every module of SwissArmyTransformer but those that nobody can import."""
    import sat

    gc.unfreeze()
    gc.collect()  # an extension whose objects can't be traversed crashes here
    bad: dict[str, str] = {}
    unused, count = [], 0
    for found in pkgutil.walk_packages(sat.__path__, "sat.", onerror=lambda name: None):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.startswith(_UNUSED_BY):
                unused.append(found.name)
            else:
                bad[found.name] = one_line(error)
        except Exception as error:  # whatever a foreign module raises is the finding
            bad[found.name] = one_line(error)
        else:
            count += 1
    if bad:
        return failed(f"{len(bad)} modules of SwissArmyTransformer fail: {_named(bad)}", problems=bad, unused=unused)
    finding = f"{count} modules of SwissArmyTransformer import; {len(unused)} ask for what no requirement brings"
    return passed(finding, unused=unused)


def _closure(request: ProbeRequest) -> list[str]:
    more = TRANSITIVE if request.data_only else TRANSITIVE + TRAINING_TRANSITIVE
    return [item["module"] for item in request.requirements] + list(more)


def _has(module: ModuleType, name: str) -> bool:
    """Return whether a module has a name, which may be one inside another, or a module of its own."""
    place: object = module
    path = module.__name__
    for part in name.split("."):
        path = f"{path}.{part}"
        if not hasattr(place, part):
            try:
                importlib.import_module(path)
            except ModuleNotFoundError:
                return False
        place = getattr(place, part)
    return True


def _named(problems: dict[str, str], most: int = 2) -> str:
    return some([f"{name} ({problem})" for name, problem in problems.items()], most, "; ")


def _problems(request: ProbeRequest, scripts: Mapping[str, str]) -> dict[str, str]:
    """Run each script in a process of its own, two at a time; return what is wrong, by the script's name."""
    has_gpu = bool(request.inputs["gpu"]["gpus"])
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda code: _problem(code, has_gpu), scripts.values())
        return {name: problem for name, problem in zip(scripts, found, strict=True) if problem}


def _problem(code: str, has_gpu: bool) -> str | None:
    """Run `code` in a new process; return what is wrong in one line, or None."""
    done = run_joined([sys.executable, "-c", code], _LIMIT)
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode}"
    if done.returncode:
        print(f"--- {code}\n{done.stdout[-4000:]}")  # the whole chain of errors, where the ledger's words may stand
        return last_error(done.stdout)
    complaints = loader_errors(done.stdout, has_gpu)
    return f"imports, but the loader says: {complaints[0][:300]}" if complaints else None

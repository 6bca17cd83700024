"""Entry of a probe's process: `python _harness.py FOLDER/request.json`; each outcome becomes FOLDER/result-INDEX.json.

The request has the "folder" of the checks' code, "checks" as (subject, function), "shared" and "inputs"; each check
works in FOLDER/work-INDEX. With "ranks" it is one check for all ranks of torchrun: the results are result-RANK.json.

The outcome goes through a file, because everything that a probe imports may print. An exception in a check is its
finding; a check that can't be loaded ends with exit code 70 and no outcome, which the runner reports as a failure.
"""

from __future__ import annotations

import sys

if sys.path and __file__.startswith(sys.path[0] + "/"):  # not there with PYTHONSAFEPATH
    sys.path.pop(0)  # the folder of this file: its `data` or `video` must not be found by anybody's import

import gc
import importlib.util
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = "satenv_checks"
CANNOT_LOAD = 70
STARTED = "started"  # beside the request: until it is there, Python itself is to blame


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that `finally` runs, e.g. the release of a compilation lock


def _load(folder: Path, subject: str, function: str) -> Callable[[object], Any]:
    if _PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[_PACKAGE] = package
        spec.loader.exec_module(package)
    return getattr(importlib.import_module(f"{_PACKAGE}.{subject}"), function)  # type: ignore[no-any-return]


def _end_with_torchrun() -> None:
    """Let a rank end at once when torchrun says so, and never outlive it: it has put the rank into its own session."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # waiting for a dead peer, Python would not come to the handler
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG


def main() -> int:
    """Run the request's checks, one after the other. Returns the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    gc.set_threshold(100_000)  # nearly all objects are of imported modules and stay: to look at them takes seconds
    folder = Path(sys.argv[1]).parent
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    (folder / STARTED).touch()
    code, ranks = 0, request.get("ranks", False)
    if ranks:
        _end_with_torchrun()
    for index, (subject, name) in enumerate(request["checks"]):
        start = time.monotonic()
        try:
            function = _load(Path(request["folder"]), subject, name)
            probe = sys.modules[f"{_PACKAGE}._probe"]
        except Exception:
            traceback.print_exc()
            return CANNOT_LOAD
        try:
            workdir = folder / f"work-{index}"
            outcome = function(probe.ProbeRequest(workdir, Path(request["shared"]), request["inputs"]))
        except Exception as error:
            traceback.print_exc()
            outcome = probe.failed(probe.one_line(error))
            code = int(ranks)  # torchrun then ends the ranks that wait for it
        target = folder / f"result-{os.environ.get('RANK', '0') if ranks else index}.json"
        answer = asdict(outcome) | {"seconds": time.monotonic() - start}
        target.with_suffix(".part").write_text(json.dumps(answer), encoding="utf-8")
        os.replace(target.with_suffix(".part"), target)
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the outcome is written: what libraries do while Python shuts down is not its business

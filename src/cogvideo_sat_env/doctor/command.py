"""One command `doctor`, whoever parsed its options: runs the checks and says what to print, with which exit code."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.doctor.catalogue import ALL_CHECKS, CHECKS, SAT_CHECKS, list_checks, select
from cogvideo_sat_env.doctor.check_result import CheckResult
from cogvideo_sat_env.doctor.command_options import DoctorOptions, read_options
from cogvideo_sat_env.doctor.doctor_report import DoctorReport
from cogvideo_sat_env.doctor.find_prefix import find_prefix, find_python
from cogvideo_sat_env.doctor.fleet import nodes
from cogvideo_sat_env.doctor.junit import check_target, write_junit
from cogvideo_sat_env.doctor.runner import Conditions, run
from cogvideo_sat_env.doctor.sat.examine import SatOptions, open_run
from cogvideo_sat_env.doctor.sat.explain import explain, explain_file
from cogvideo_sat_env.doctor.symptoms import read_symptoms
from cogvideo_sat_env.spec.breakage import read_ledger


def answer(request: DoctorOptions, default: Callable[[], Path]) -> tuple[str, int]:
    """Do what `request` asks for; return what to print and the exit code.

    `default` is the prefix when none is named or active. Raises InputError for a bad option or file, PrefixError when
    the prefix has no Python.
    """
    if request.explain is not None:
        return _explained(request)
    checks = SAT_CHECKS if request.sat else CHECKS
    select(request.level, request.only, request.skip, checks)  # a wrong id is refused before anything runs
    if request.base and request.sat is None:
        raise InputError("--base goes with --sat", "--sat DIR --base CONFIG: DIR is your checkout of CogVideo")
    if request.listing:
        return list_text(request.as_json), 0
    if not request.patience > 0:
        raise InputError(f"--patience {request.patience:g}: expected a number above 0", "--patience 3")
    options = read_options(request)
    if request.junit:
        check_target(request.junit)
    if request.nodes is not None or request.ntasks is not None:
        if request.python is not None:
            raise InputError("--python examines one node", "leave --nodes and --ntasks out, or name a prefix with -p")
        several = nodes.examine(find_prefix(request.prefix, request.name, default), request)
        if several is None:  # rank 0 tells it all
            return "", 0
        report = several
    else:
        prefix = find_prefix(request.prefix, request.name, default, request.python)
        python = find_python(request.python) if request.python else None
        report = run(
            prefix, Conditions(python, options, request.patience, _sat(request)), level=request.level,
            only=request.only, skip=request.skip, on_check=None if request.as_json else show_check,
        )  # fmt: skip
    if request.strict:
        report = report.strictly()
    if request.junit:
        write_junit(report, request.junit)
    text = json.dumps(report.to_json(), indent=2) + "\n" if request.as_json else report_text(report)
    return text, report.exit_code


def _sat(request: DoctorOptions) -> SatOptions | None:
    """Return what is examined of the user's own run. Raises InputError for a checkout or YAML that can't be read."""
    if request.sat is None:
        return None
    asked = SatOptions(request.sat, tuple(request.base), tuple(shlex.split(request.train_args)))
    open_run(asked)  # before an environment is started
    return asked


def _explained(request: DoctorOptions) -> tuple[str, int]:
    """Return what is known of a log. Raises InputError when it can't be read."""
    known = (read_symptoms(), read_ledger())
    if request.explain == "-":
        found = explain("standard input", sys.stdin.buffer, *known)
    else:
        found = explain_file(Path(str(request.explain)).expanduser(), *known)
    return json.dumps(found.to_json(), indent=2) + "\n" if request.as_json else found.to_text(), found.exit_code


def list_text(as_json: bool) -> str:
    """Return all checks: id, subject, level, time limit in seconds, and the failure that each catches."""
    if as_json:
        return json.dumps(list_checks(), indent=2) + "\n"
    lines: list[str] = []
    width = max(len(check.id) for check in ALL_CHECKS)
    for check in ALL_CHECKS:
        head = f"{check.id:<{width}}  {check.level:<5}  "
        if sys.stdout.isatty():
            columns = min(shutil.get_terminal_size((80, 24)).columns, 120)
            lines += textwrap.wrap(check.catches, columns, initial_indent=head, subsequent_indent=" " * len(head))
        else:  # one a line, for grep
            lines.append(head + check.catches)
    return "\n".join(lines) + "\n"


def show_check(result: CheckResult) -> None:
    """Say on a terminal which check has just ended: the full level takes minutes."""
    if sys.stderr.isatty():
        print(f"  {result.status:<8} {result.id} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)


def report_text(report: DoctorReport) -> str:
    """Return the report for people: coloured on a terminal, unless NO_COLOR is set."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    return report.to_text(width=min(width, 120), colour=colour)

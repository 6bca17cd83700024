"""`satenv doctor`: which prefix is meant, and how the report is shown."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env import doctor
from cogvideo_sat_env.errors import InputError
from cogvideo_sat_env.paths import envs_dir, project_root
from cogvideo_sat_env.spec import read_environment


def run_command(
    *,
    prefix: Path | None,
    name: str | None,
    level: str,
    only: Sequence[str],
    skip: Sequence[str],
    listing: bool,
    as_json: bool,
) -> tuple[str, int]:
    """Run the doctor as asked for; return what to print and the exit code. Raises InputError."""
    checks = doctor.list_checks()
    if listing:
        if as_json:
            return json.dumps(checks, indent=2) + "\n", 0
        return "".join(f"{c['id']:<28} {c['level']:<6} {c['catches']}\n" for c in checks), 0
    known = {check["id"] for check in checks}
    for asked in (*only, *skip):
        if asked not in known:
            raise InputError(f"no check {asked!r}", "satenv doctor --list shows the checks")
    target = find_prefix(prefix, name)
    report = doctor.run(target, level=level, only=only, skip=skip, on_check=None if as_json else show_check)
    if as_json:
        return json.dumps(report.to_json(), indent=2) + "\n", report.exit_code
    return report_text(report), report.exit_code


def find_prefix(prefix: Path | None, name: str | None) -> Path:
    """Return the prefix that is meant: the named one, else the active one, else that of environment.yml's name.

    Raises InputError when it isn't an environment.
    """
    if prefix is not None and name is not None:
        raise InputError("-p and -n exclude each other", "name the folder or the environment, not both")
    if prefix is None and name is None and os.environ.get("CONDA_PREFIX"):
        prefix = Path(os.environ["CONDA_PREFIX"])
    target = (prefix or envs_dir() / (name or read_environment(project_root() / "environment.yml").name)).absolute()
    if not (target / "bin" / "python").exists():
        raise InputError(
            f"{target}: no environment there; expected bin/python below it",
            "make one with `satenv create`, or name another with -p or -n",
        )
    return target


def show_check(result: doctor.CheckResult) -> None:
    """Say on a terminal which check has just ended: the full level takes minutes."""
    if sys.stderr.isatty():
        print(f"  {result.status:<8} {result.id} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)


def report_text(report: doctor.Report) -> str:
    """Return the report for people: coloured on a terminal, unless NO_COLOR is set."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    return report.to_text(width=min(width, 120), colour=colour)

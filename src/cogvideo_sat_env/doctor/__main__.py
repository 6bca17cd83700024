"""`python -m cogvideo_sat_env.doctor`: the doctor alone, inside the environment or pointed at one."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env import doctor
from cogvideo_sat_env.errors import SatenvError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the doctor; returns the exit code: 0 nothing failed, 1 something did, 2 wrong usage, 6 no environment."""
    parser = argparse.ArgumentParser(prog="python -m cogvideo_sat_env.doctor", description=__doc__)
    default = Path(os.environ.get("CONDA_PREFIX") or sys.prefix)
    names = sorted({name for item in doctor.list_checks() for name in (item["id"], item["subject"])})
    parser.add_argument(
        "-p", "--prefix", type=Path, default=default, help="the environment (default: the active one, %(default)s)"
    )
    parser.add_argument("--level", choices=doctor.LEVELS, default="full", help="default: %(default)s")
    parser.add_argument(
        "--only", action="append", choices=names, default=[], metavar="ID", help="this check or subject; repeatable"
    )
    parser.add_argument(
        "--skip", action="append", choices=names, default=[], metavar="ID", help="leave this out; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    parser.add_argument("--list", action="store_true", help="list the checks and what they catch")
    options = parser.parse_args(arguments)
    if options.list:
        _list(options.json)
        return 0
    show = sys.stderr.isatty() and not options.json
    try:
        report = doctor.run(
            options.prefix, level=options.level, only=options.only, skip=options.skip,
            on_check=_progress if show else None,
        )  # fmt: skip
    except SatenvError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(report.to_text(min(shutil.get_terminal_size().columns, 120), colour), end="")
    return report.exit_code


def _list(as_json: bool) -> None:
    checks = doctor.list_checks()
    if as_json:
        print(json.dumps(checks, indent=2))
        return
    for item in checks:
        print(f"{item['id']:<26}{item['level']:<7}{item['catches']}")


def _progress(result: doctor.CheckResult) -> None:
    print(f"{result.status:<8} {result.id} ({result.seconds:.1f} s)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""The `conda` that conda-lock calls, over rattler: `create`, `install`, `list`, `info`, as far as conda-lock asks.

conda-lock's last channel is one that it generates: its records are the virtual packages, which rattler wants apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from cogvideo_sat_env.base.address import local_path
from cogvideo_sat_env.base.artefacts import split_archive, split_url
from cogvideo_sat_env.base.errors import SatenvError, SolveError
from cogvideo_sat_env.lock import solve

EXCEPTION = "exception_name"  # as conda says the kind of its errors
CONSTRAINTS = "SATENV_FRONTEND_CONSTRAINTS"  # JSON list: an update must not leave bounds that it doesn't get

UNTIL = "SATENV_FRONTEND_UNTIL"  # ISO 8601, UTC: records published after it are passed over; "" for none


def main(argv: list[str] | None = None) -> int:
    """Answer one call of conda-lock's; errors go out as conda's do, in JSON with a `message`."""
    args = _parser().parse_args(argv)
    try:
        answer = args.run(args)
    except SatenvError as error:
        name = {EXCEPTION: type(error).__name__}
        json.dump({"success": False, "error": error.message, "message": error.message, **name}, sys.stdout)
        return 1
    json.dump(answer, sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="conda", description=__doc__)
    parser.add_argument("--version", action="version", version="conda 26.7.0")
    commands = parser.add_subparsers(required=True)
    for name in ("create", "install"):
        command = commands.add_parser(name)
        command.add_argument("--channel", "-c", action="append", default=[])
        command.add_argument("specs", nargs="*")
        command.add_argument("--override-channels", action="store_true")
        command.add_argument("--dry-run", action="store_true", required=True)
        command.set_defaults(run=_create if name == "create" else _install)
    commands.add_parser("list").set_defaults(run=_list)
    commands.choices["list"].add_argument("--no-pip", action="store_true")
    commands.add_parser("info").set_defaults(run=_info)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", required=True)
        command.add_argument("--prefix", "-p", type=Path)
    return parser


def _create(args: argparse.Namespace) -> dict:
    return _plan(args.channel, args.specs, keep=[])


def _install(args: argparse.Namespace) -> dict:
    installed = _installed(args.prefix)
    asked = {spec.split()[0] for spec in args.specs}
    stay = [record for record in installed if record["name"] not in asked]
    # every installed name is asked for as well: an update that would remove a requirement is no update
    specs = [*args.specs, *(record["name"] for record in stay)]
    keep = [(r["name"], r["version"], r["build"]) for r in stay]
    before = {(r["name"], r["version"], r["build"]) for r in installed}
    try:
        plan = _moved(_plan(args.channel, specs, keep, pin=True), before)
    except SolveError:
        plan = None
    if plan is None or not plan["actions"]["LINK"]:
        # nothing newer fits as long as all the rest stays: let move what must
        plan = _moved(_plan(args.channel, specs, keep), before)
    return plan


def _moved(plan: dict, before: set[tuple[str, str, str]]) -> dict:
    """Return the plan without what is installed already."""
    for actions in plan["actions"].values():
        actions[:] = [
            a for a in actions if (a["name"], a["version"], a.get("build_string") or a["build"]) not in before
        ]
    return plan


def _plan(channels: list[str], specs: list[str], keep: list[tuple[str, str, str]], pin: bool = False) -> dict:
    real, virtual = _split_virtual(channels)
    constraints, until = json.loads(os.environ.get(CONSTRAINTS, "[]")), os.environ.get(UNTIL, "")
    records = solve.solve(
        real, specs, os.environ["CONDA_SUBDIR"], virtual, constraints=constraints, keep=keep, pin=pin, until=until
    )
    return {"success": True, "dry_run": True, "actions": {"FETCH": records, "LINK": [_link(r) for r in records]}}


def _split_virtual(channels: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take conda-lock's generated channel from the list and read the virtual packages out of it."""
    virtual: dict[str, str] = {}
    real = []
    for channel in channels:
        folder = local_path(channel) if channel.startswith("file://") else None
        if folder is None or "conda-lock-fake-repodata-" not in folder.name:
            real.append(channel)
            continue
        for subdir in ("noarch", os.environ["CONDA_SUBDIR"]):
            repodata = json.loads((folder / subdir / "repodata.json").read_text(encoding="utf-8"))
            for record in repodata["packages"].values():
                virtual[record["name"]] = f"{record['version']} {record['build']}"
    return real, virtual


def _link(record: dict) -> dict:
    channel, subdir, file_name = split_url(record["url"])
    return {
        "name": record["name"],
        "version": record["version"],
        "build_string": record["build"],
        "build_number": record["build_number"],
        "channel": channel,
        "base_url": channel,
        "platform": subdir,
        "dist_name": file_name.removesuffix(".conda").removesuffix(".tar.bz2"),
    }


def _installed(prefix: Path) -> list[dict]:
    records = []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        # conda-lock guesses the build from the file name; take it from there in the same way as our lock reader
        record["build"] = split_archive(split_url(record["url"])[2])[2]
        records.append(record)
    return records


def _list(args: argparse.Namespace) -> list[dict]:
    return [_link({"build_number": 0} | record) | {"url": record["url"]} for record in _installed(args.prefix)]


def _info(args: argparse.Namespace) -> dict:
    return {
        "pkgs_dirs": os.environ.get("CONDA_PKGS_DIRS", "").split(os.pathsep),
        "platform": os.environ.get("CONDA_SUBDIR"),
    }


if __name__ == "__main__":
    sys.exit(main())

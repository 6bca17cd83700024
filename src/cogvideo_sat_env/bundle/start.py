"""What `python3 BUNDLE.pyz` does: verify, list and diff by itself; everything else with the tool that is in it.

Python's standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvideo_sat_env.base.paths import cache_dir
from cogvideo_sat_env.base.run import run
from cogvideo_sat_env.bundle.container import Bundle, open_bundle
from cogvideo_sat_env.bundle.describe import compare, describe, prove
from cogvideo_sat_env.bundle.unpack_tool import unpack_project, unpack_tool
from cogvideo_sat_env.report import signature

_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); del sys.argv[0];"
    " from cogvideo_sat_env.__main__ import main; main()"
)
# what is handed on to `satenv bundle install`, which has the same options and says what they mean
_FLAGS = ("--replace", "--repair", "--older", "--break-lock", "--no-doctor", "--json", "-q", "--quiet")
_VALUES = ("-n", "--name", "--variant", "--python", "--allow-link-scripts", "--wait")


def main(path: str) -> int:
    """Run the command line of the bundle at `path`; return the exit code (or become the tool)."""
    return run("satenv", lambda: _run(Path(path), sys.argv[1:]))


def parser(name: str) -> argparse.ArgumentParser:
    """Return the command line of the bundle called `name`. What it doesn't know is an error, as is an empty value."""
    top = argparse.ArgumentParser(
        f"python3 {name}", description="Carry the environment to a site without internet.", allow_abbrev=False
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.add_argument("--json", action="store_true", help="one JSON object on standard output")
        return added

    check = command("verify", "verify every byte")
    install = command("install", "verify every byte, then make the environment: no network, no root, only this Python")
    for added in (check, install):
        added.add_argument("--signers", type=_file, metavar="FILE", help="allowed signers; unsigned is refused then")
        added.add_argument("--identity", type=_text, metavar="WHO", help="who of them must have signed")
    for added in (check, install, command("list", "what is in it, and how much space it needs")):
        added.add_argument("--base", type=_file, metavar="OLD.pyz", help="the bundle that a delta applies on top of")
    install.add_argument("-p", "--prefix", type=_text, help="folder of the environment")
    for flag in _FLAGS:
        if flag != "--json":
            install.add_argument(flag, action="store_true", help="as in: satenv bundle install --help")
    for option in _VALUES:
        install.add_argument(option, type=_text, metavar="VALUE", help="as in: satenv bundle install --help")
    command("diff", "what differs from another bundle").add_argument("old", type=_file, metavar="OLD.pyz")
    tool = commands.add_parser("satenv", help="any other command of the tool: satenv doctor", add_help=False)
    tool.add_argument("arguments", nargs=argparse.REMAINDER)
    return top


def _text(value: str) -> str:
    if not value.strip():
        raise argparse.ArgumentTypeError("expected a value, found an empty one")
    return value


def _file(value: str) -> Path:
    return Path(_text(value))


def _run(path: Path, arguments: Sequence[str]) -> int:
    if arguments[:1] == ["satenv"]:  # everything after it is the tool's, options too
        return _tool(open_bundle(path), arguments[1:])
    given = parser(path.name).parse_args(arguments)
    if getattr(given, "identity", None) and not given.signers:
        parser(path.name).error("--identity says who of --signers must have signed")
    bundle = open_bundle(path, getattr(given, "base", None))
    if given.command == "install":
        if given.signers:
            signature.check(bundle.path, bundle.tail, given.signers, given.identity)  # before its tool is unpacked
        bundle.require_base()
        return _tool(bundle, ["bundle", "install", str(path), *arguments[1:]])
    if given.command == "verify":
        found, text = prove(bundle, given.signers, given.identity)
    elif given.command == "diff":
        found, text = compare(open_bundle(given.old), bundle)
    else:
        found, text = describe(bundle)
    print(json.dumps(found, indent=2) if given.json else text)
    return 0


def _tool(bundle: Bundle, arguments: Sequence[str]) -> int:
    cache = cache_dir()
    python = unpack_tool(bundle, cache)
    project = unpack_project(bundle, cache)
    environment = {**os.environ, "SATENV_CACHE": str(cache)}
    environment.pop("SATENV_PROJECT", None)
    sys.stdout.flush()
    os.execve(
        python,
        [str(python), "-I", "-c", _RUN, str(project / "src"), f"python3 {shlex.quote(sys.argv[0])} satenv", *arguments],
        environment,
    )

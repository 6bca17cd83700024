"""What `python3 BUNDLE.pyz` does: verify, list and diff by itself; everything else with the tool that is in it.

Python's standard library only.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, SatenvError
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.bundle import signature
from cogvideo_sat_env.bundle.container import Bundle, open_bundle
from cogvideo_sat_env.bundle.report import compare, describe
from cogvideo_sat_env.bundle.unpack_tool import cache_dir, unpack_project, unpack_tool
from cogvideo_sat_env.bundle.verify import verify

_USAGE = """usage: python3 {name} COMMAND

  install -p PREFIX [--signers FILE] [--base OLD.pyz] [--replace] [--json]
                      prove every byte, then make the environment; no network, no root, nothing but this Python
  verify [--signers FILE] [--identity WHO] [--base OLD.pyz] [--json]
                      prove every byte
  list [--json]       what is in it, and how much space it needs
  diff OLD.pyz        what differs from another bundle
  satenv ARGUMENTS    any other command of the tool, e.g. satenv doctor
"""
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); del sys.argv[0];"
    " from cogvideo_sat_env.__main__ import main; main()"
)


def main(path: str) -> int:
    """Run the command line of the bundle at `path`; return the exit code (or become the tool)."""
    arguments = sys.argv[1:]
    try:
        return _run(Path(path), arguments)
    except SatenvError as error:
        if "--json" in arguments:
            print(json.dumps({"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}, indent=2))
        else:
            print(f"satenv: {error.message}", file=sys.stderr)
            if error.remedy:
                print(f"  {error.remedy}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("satenv: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _run(path: Path, arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("", "-h", "--help", "help"):
        print(_USAGE.format(name=path.name), end="")
        return 0 if command else 2
    if command == "install" and not {"-h", "--help"} & set(rest):
        bundle = open_bundle(path, _option(rest, "--base"))
        _check_signature(bundle, rest)
        bundle.require_base()
        return _tool(bundle, ["bundle", "install", str(path), *rest])
    if command in ("verify", "list", "diff"):
        return _own(command, path, rest)
    if command in ("satenv", "install"):
        bundle = open_bundle(path, _option(rest, "--base"))
        return _tool(bundle, rest if command == "satenv" else ["bundle", "install", *rest])
    print(f"satenv: {command!r}: no such command", file=sys.stderr)
    print(_USAGE.format(name=path.name), end="", file=sys.stderr)
    return 2


def _own(command: str, path: Path, rest: list[str]) -> int:
    as_json = "--json" in rest
    bundle = open_bundle(path, _option(rest, "--base"))
    if command == "list":
        print(json.dumps(describe(bundle)[0], indent=2) if as_json else describe(bundle)[1])
        return 0
    if command == "diff":
        others = [word for word in rest if not word.startswith("-")]
        if len(others) != 1:
            raise InputError("diff: expected the other bundle", "e.g. python3 new.pyz diff old.pyz")
        found, text = compare(open_bundle(Path(others[0])), bundle)
        print(json.dumps(found, indent=2) if as_json else text)
        return 0
    signer = _check_signature(bundle, rest)
    start = time.perf_counter()
    size = verify(bundle)
    seconds = time.perf_counter() - start
    if as_json:
        print(json.dumps({"bundle": str(path), "id": bundle.id, "members": len(bundle.members), "bytes": size,
                          "signed_by": signer, "seconds": round(seconds, 3), "exit_code": 0}, indent=2))  # fmt: skip
    else:
        signed = f", signed by {signer}" if signer else ""
        print(f"{path.name}: {len(bundle.members)} members, {human_bytes(size)}: every byte as in its manifest{signed}")
    return 0


def _check_signature(bundle: Bundle, rest: list[str]) -> str | None:
    signers = _option(rest, "--signers")
    identity = _option(rest, "--identity")
    return signature.check(bundle, signers, str(identity) if identity else None) if signers else None


def _option(rest: list[str], name: str) -> Path | None:
    for number, word in enumerate(rest):
        if word == name and number + 1 < len(rest):
            return Path(rest[number + 1])
        if word.startswith(f"{name}="):
            return Path(word.partition("=")[2])
    return None


def _tool(bundle: Bundle, arguments: list[str]) -> int:
    cache = cache_dir().absolute()
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

"""Makes a private venv out of hash-pinned requirement files, whatever the user's pip and Python settings are.

Python's standard library only: scripts/bootstrap.py runs it before there is a tool.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cogvideo_sat_env.base import diskspace
from cogvideo_sat_env.base.complete import is_complete_venv, make_once, noexec
from cogvideo_sat_env.base.errors import MissingToolError, PrefixError, SatenvError, SourceError, VerificationError

NEEDED = 350_000_000  # bytes: the users' tools, and the archives that they come in
_WHAT = "satenv's tools"
# of pip's settings, those that say how an index is reached; PIP_TARGET, PIP_DRY_RUN, PIP_USER … lead elsewhere
_REACHING = {
    "cache-dir", "cert", "client-cert", "default-timeout", "disable-pip-version-check", "extra-index-url", "find-links",
    "index-url", "keyring-provider", "no-cache-dir", "no-index", "proxy", "retries", "timeout", "trusted-host",
}  # fmt: skip
_HASHES = re.compile(
    r"^ +(\S+) from .*:\n +Expected (?:or )?sha256 ([0-9a-f]{64})(?:.*\n)*? +Got +([0-9a-f]{64})", re.MULTILINE
)
# each distribution has to be there, and those with compiled modules have to load on this machine
_PROVE = """
import importlib, importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for line in filter(str.strip, sys.stdin):
    wanted = Requirement(line.strip())
    if wanted.marker and not wanted.marker.evaluate():
        continue
    found = importlib.metadata.distribution(wanted.name)
    assert wanted.specifier.contains(found.version, prereleases=True), f"expected {wanted}, found {found.version}"
    for top in sorted({f.parts[0] for f in found.files or () if f.suffix == ".so" and len(f.parts) > 1}):
        if top.isidentifier():
            importlib.import_module(top)
"""


def make_tool_venv(venv: Path, requirements: Sequence[Path]) -> None:
    """Make `venv` with exactly the pinned `requirements`, unless it is complete.

    Raises MissingToolError (no venv module), PrefixError (no space, not writable, noexec), SourceError (no index),
    VerificationError (wrong bytes).
    """
    folder = venv.parent
    if noexec(diskspace.existing(folder)):
        raise PrefixError(
            f"{folder}: lies on a file system that is mounted noexec; {_WHAT} can't be started there",
            "choose another place for the cache with SATENV_CACHE",
        )

    def make(place: str) -> None:
        print(f"satenv: preparing its tools in {venv} (once)", file=sys.stderr, flush=True)
        diskspace.require(folder, NEEDED, _WHAT)
        _require_inodes(folder)
        try:
            _fill(Path(place), venv, requirements)
        except SatenvError as error:
            _require_room(Path(place))  # the cause behind whatever venv or pip reported
            raise error

    with diskspace.watch(folder, _WHAT, NEEDED):
        make_once(str(venv), make, found=is_complete_venv)


def _fill(place: Path, venv: Path, requirements: Sequence[Path]) -> None:
    scratch = place.parent / "tmp"
    scratch.mkdir()
    # no Python settings of the user's; pip works in the cache's file system, and needs a home that is one
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "__PYVENV"))}
    environment |= {"TMPDIR": str(scratch)}
    if not os.path.isabs(os.path.expanduser("~")):
        environment["HOME"] = str(scratch)
    made = _run([sys.executable, "-I", "-m", "venv", str(place)], environment)
    if made.returncode != 0:
        words = (made.stdout + made.stderr).strip().splitlines()
        raise MissingToolError(
            f"{sys.executable} can't make a venv: {words[-1] if words else 'no reason given'}",
            "install its venv module (Debian, Ubuntu: apt install python3-venv), or name another one in SATENV_PYTHON",
        )
    python = str(place / "bin" / "python")
    environment |= _pip_settings(python, environment)
    command = [python, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-compile"]  # Python compiles what is imported, a fifth of it
    command += ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    installed = _run([*command, *(part for path in requirements for part in ("-r", str(path)))], environment)
    if installed.returncode != 0:
        raise _pip_error(installed.stderr, environment)
    pins = [line.rstrip("\\ ") for path in requirements for line in path.read_text().splitlines() if "==" in line]
    proven = _run([python, "-I", "-c", _PROVE], environment, "\n".join(pins))
    if proven.returncode != 0:
        raise SatenvError(
            f"the tools that pip installed can't be loaded: {proven.stderr.strip().splitlines()[-1]}",
            "name another Python (a CPython 3.10 to 3.13) in SATENV_PYTHON",
        )
    for path in [place / "pyvenv.cfg", *(place / "bin").iterdir()]:  # it gets its final name afterwards
        if path.is_file() and not path.is_symlink() and os.fsencode(place) in (content := path.read_bytes()):
            path.write_bytes(content.replace(os.fsencode(place), os.fsencode(venv)))


def _pip_settings(python: str, environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that tell pip how this site reaches its index, and to read no configuration file."""
    reading = {k: v for k, v in os.environ.items() if k == "PIP_CONFIG_FILE" or _option(k) in _REACHING}
    listed = _run([python, "-I", "-m", "pip", "config", "list"], {**environment, **reading})
    if listed.returncode != 0:
        words = listed.stderr.strip().splitlines() or ["no reason given"]
        raise SourceError(f"pip can't read its configuration: {words[-1]}", "correct pip's configuration file")
    settings: dict[str, str] = {}
    rank = {":env:": 0, "install": 1, "global": 2}
    found = [line.partition("=") for line in listed.stdout.splitlines()]
    for key, _, value in sorted(found, key=lambda entry: rank.get(entry[0].rpartition(".")[0], 3)):
        section, _, option = key.rpartition(".")
        if section in rank and option in _REACHING:
            settings.setdefault(f"PIP_{option.upper().replace('-', '_')}", str(ast.literal_eval(value)))
    return {**settings, "PIP_CONFIG_FILE": os.devnull}


def _option(variable: str) -> str:
    return variable.removeprefix("PIP_").lower().replace("_", "-") if variable.startswith("PIP_") else ""


def _pip_error(text: str, environment: Mapping[str, str]) -> SatenvError:
    if wrong := _HASHES.search(text):
        name, expected, found = wrong.groups()
        return VerificationError(
            f"{name}: expected SHA-256 {expected}, the package index gave {found}",
            "take a checkout whose files are whole, or another index (pip config list)",
        )
    lines = [line for line in text.splitlines() if line.startswith("ERROR")] or text.splitlines() or ["no reason given"]
    proxies = [k for k, v in environment.items() if v and k.lower() in ("https_proxy", "http_proxy", "all_proxy")]
    proxies += ["pip's setting proxy"] if environment.get("PIP_PROXY") else []
    if "SOCKS" in text and proxies:
        return SourceError(
            f"pip can't use the SOCKS proxy that {' and '.join(proxies)} names before its tools are there",
            "for this first run name an HTTP proxy, or an index that needs none (PIP_INDEX_URL); later runs use SOCKS",
        )
    if proxies:
        return SourceError(
            f"pip could not install the tools through the proxy that {' and '.join(proxies)} names: {lines[0]}",
            f"correct or unset {' and '.join(proxies)}, or check that its proxy reaches a package index",
        )
    return SourceError(
        f"pip could not install the tools: {lines[0]}",
        "check that pip reaches a package index (pip config list) and the proxy, then run it again",
    )


def _require_inodes(folder: Path) -> None:
    system = os.statvfs(folder)
    if system.f_files and system.f_favail < 6000:  # what a venv of these tools has
        raise PrefixError(
            f"{folder}: {_WHAT} are about 6,000 files; only {system.f_favail:,} inodes are free there",
            "delete files there, ask for a larger quota of files, or choose another place with SATENV_CACHE",
        )


def _require_room(folder: Path) -> None:
    """Raise PrefixError when no more can be written to `folder`: a quota shows only so."""
    try:
        with open(folder / "room", "wb") as stream:
            stream.write(bytes(4_000_000))
        os.unlink(folder / "room")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise diskspace.full(folder.parent.parent, _WHAT, NEEDED) from error


def _run(command: list[str], environment: dict[str, str], text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text if text is not None else "", capture_output=True, text=True, check=False,
                          env=environment)  # fmt: skip

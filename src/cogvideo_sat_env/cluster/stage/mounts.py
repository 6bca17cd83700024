"""Mounting an image: as root by a loop device, as a user by FUSE where the node allows it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

LOOP, FUSE = "loop", "fuse"
_DEVICE = "/dev/fuse"
_LIMIT = 120.0  # seconds for a mount, on a shared file system under load
_ESCAPE = re.compile(r"\\([0-7]{3})")
_PATH = ":/usr/sbin:/sbin:/usr/bin:/bin"  # a prolog's PATH may be short


def mounted(at: Path) -> str | None:
    """Return the type of the file system that is mounted at `at` itself, None for none."""
    found = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            fields = line.split()
            if _ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields[4]) == str(at):
                found = fields[fields.index("-") + 1]  # the last one is on top
    return found


def mount(image: Path, at: Path) -> tuple[str, list[str]]:
    """Mount `image` at the empty folder `at`; return how (LOOP or FUSE, "" for not at all), and why not the others."""
    reasons = []
    for how, command in ((LOOP, _loop), (FUSE, _fuse)):
        found = command(image, at)
        if isinstance(found, str):
            reasons.append(found)
            continue
        words = _run(found)
        if words is None and mounted(at):
            return how, reasons
        reasons.append(f"{os.path.basename(found[0])}: {words or 'nothing is mounted afterwards'}")
    return "", reasons


def unmount(at: Path) -> str | None:
    """Unmount what is at `at`; return None, or why it can't be."""
    words: str | None = "no fusermount on PATH"
    for name in ("umount",) if os.geteuid() == 0 else ("fusermount3", "fusermount"):
        program = _which(name)
        if program is None:
            continue
        words = _run([program, str(at)] if name == "umount" else [program, "-u", str(at)])
        if words is None:
            return None
    return words


def _loop(image: Path, at: Path) -> list[str] | str:
    if os.geteuid() != 0:
        return "a loop mount needs root"
    program = _which("mount")
    if program is None:
        return "no mount on PATH"
    return [program, "-t", "squashfs", "-o", "loop,ro,nosuid,nodev", str(image), str(at)]


def _fuse(image: Path, at: Path) -> list[str] | str:
    program = _which("squashfuse_ll") or _which("squashfuse")
    if program is None:
        return "no squashfuse on PATH"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_DEVICE}: {error.strerror}"
    others = ["-o", "allow_other"] if os.geteuid() == 0 else []
    return [program, *others, str(image), str(at)]


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + _PATH)


def _run(command: list[str]) -> str | None:
    """Run a command; return None, or its last words where it failed."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
            timeout=_LIMIT, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer in {_LIMIT:.0f} s"
    except OSError as error:
        return str(error.strerror)
    words = " ".join(done.stderr.decode(errors="replace").split())[-200:]
    return None if done.returncode == 0 else words or f"exit code {done.returncode}"

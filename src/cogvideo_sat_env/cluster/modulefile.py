"""Modulefiles of the releases, for Lmod and for Environment Modules, and load.sh: text files, filled in for ROOT.

One tree serves both module systems: Lmod takes NAME.lua, Environment Modules NAME, which is Tcl. What a load changes
isn't written into them: the release's own activation says it when it is loaded (install/activation/activate.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.files import write_atomically
from cogvideo_sat_env.base.progress import human_bytes
from cogvideo_sat_env.cluster.root import MODULE, Root

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_DEFAULT = '#%Module1.0\nset ModulesVersion "current"\n'


def write_release(root: Root, record: Mapping[str, Any]) -> None:
    """Write the modulefiles of one release. Needs ROOT's lock. Raises OSError."""
    variant = f"{record['variant']} " if record["variant"] != record["source"] else ""  # wheels are both
    made = f"{variant}from {record['source']}, made {record['created']} by {record['by']}"
    text = (
        f"CogVideoX with SAT: the release {record['release']}\n{record['packages']} packages, "
        f"{human_bytes(record['bytes'])}; {made}\nlock {record['lock']} (SHA-256 {record['lock_sha256']})"
    )
    _write(root, record["release"], root.prefix(record["release"]), text, f"CogVideoX with SAT, {made}")


def write_common(root: Root) -> None:
    """Write load.sh and the modulefiles of `current`, the default. Needs ROOT's lock. Raises OSError."""
    text = (
        f"CogVideoX with SAT: the release that {root.current} names\nwhen it is loaded; a job keeps what it has loaded"
    )
    _write(root, "current", root.current, text, "CogVideoX with SAT, the current release")
    write_atomically(root.modules / ".version", _DEFAULT.encode())
    script = (_TEMPLATES / "load.sh").read_text(encoding="utf-8")
    script = script.replace("@QUOTED@", shlex.quote(str(root.path))).replace("@ROOT@", str(root.path))
    write_atomically(root.path / "load.sh", script.encode())


def remove(root: Root, name: str) -> None:
    """Remove the modulefiles of one release: nobody loads it any more. Needs ROOT's lock. Raises OSError."""
    for path in (root.modules / f"{name}.lua", root.modules / name):
        path.unlink(missing_ok=True)


def require_writable_name(root: Path) -> None:
    """Raise InputError for a ROOT whose path no modulefile can hold."""
    if re.search(r"""[\s\]{}\\"'$[;]""", str(root)) or not str(root).isprintable():
        raise InputError(
            f"{str(root)!r}: modulefiles and torch's builds can't name this folder: it has a blank or one of "
            "] { } [ \\ \" ' $ ; in its path",
            "choose another ROOT",
        )


def _write(root: Root, name: str, prefix: Path, text: str, whatis: str) -> None:
    plain = str.maketrans(dict.fromkeys('"\\[]{}$', " "))
    values = {
        "@HELP@": text.translate(plain), "@WHATIS@": whatis.translate(plain), "@MODULE@": MODULE, "@VERSION@": name,
        "@PREFIX@": str(prefix), "@QUOTED@": shlex.quote(str(prefix)), "@TCL@": f"{{{prefix}}}",
        "@ROOT@": str(root.path),
    }  # fmt: skip
    for template, target, leases in (
        ("modulefile.lua", f"{name}.lua", str(root.leases)), ("modulefile.tcl", name, f"{{{root.leases}}}")
    ):  # fmt: skip
        content = (_TEMPLATES / template).read_text(encoding="utf-8")
        for mark, value in {**values, "@LEASES@": leases}.items():
            content = content.replace(mark, value)
        write_atomically(root.modules / target, content.encode())

"""What activating the environment sets, for every shell, with and without conda.

The scripts are data files beside this module (activation/), the same for every prefix: in etc/conda/activate.d they are
sourced by conda, mamba and micromamba, and by bin/activate-cogvideo-sat where there is none of them. csh and fish take
what that script does from activate.py, which prints it in their words.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cogvideo_sat_env.base.errors import InputError, PrefixError
from cogvideo_sat_env.install import own_files
from cogvideo_sat_env.install.own_files import SOURCED

SCRIPT_NAME = "cogvideo-sat-env"
SHELLS = ("sh", "fish", "csh")
TEMPLATES = {
    f"bin/{SOURCED}": SOURCED,
    f"bin/{SOURCED}.csh": f"{SOURCED}.csh",
    f"bin/{SOURCED}.fish": f"{SOURCED}.fish",
    "etc/cogvideo-sat-env/activate.py": "activate.py",
}
_FILES = Path(__file__).resolve().parent / "activation"


@dataclass(frozen=True)
class Activation:
    """The activation files, path in the prefix -> content; `templates` are filled in for the prefix."""

    scripts: Mapping[str, bytes]
    templates: Mapping[str, str]

    @property
    def version(self) -> str:
        """SHA-256 over the files: another one makes the environment out of date."""
        digest = hashlib.sha256()
        filled = {name: text.encode("utf-8") for name, text in self.templates.items()}
        for name, content in sorted({**self.scripts, **filled}.items()):
            digest.update(name.encode("utf-8") + b"\0" + content + b"\0")
        return digest.hexdigest()


def load() -> Activation:
    """Return the activation files that come with the program."""
    scripts = {
        f"etc/conda/{step}.d/{SCRIPT_NAME}.{shell}": (_FILES / f"{step}.{shell}").read_bytes()
        for step in ("activate", "deactivate")
        for shell in SHELLS
    }
    return Activation(scripts, {path: (_FILES / file).read_text("utf-8") for path, file in TEMPLATES.items()})


def install(staging: Path, prefix: Path, activation: Activation, variables: Mapping[str, str]) -> list[str]:
    """Write the activation files into `staging` for `prefix` and return their paths in it.

    `variables` go where each way of activation reads them, once: conda-meta/state (conda, mamba, micromamba) and
    bin/activate-cogvideo-sat (neither). Raises InputError for a name that no shell takes, PrefixError for a file of
    another owner in the way.
    """
    for name in variables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(f"{name!r} under 'variables' can't be the name of a variable", "correct environment.yml")
    files = dict(activation.scripts)
    for name, template in activation.templates.items():
        files[name] = _fill(template, name, prefix, variables).encode("utf-8")
    if variables:
        state = {"version": 1, "env_vars": dict(sorted(variables.items()))}
        files["conda-meta/state"] = (json.dumps(state, indent=2) + "\n").encode("utf-8")
    for name, content in files.items():
        target = staging / name
        if os.path.lexists(target):
            if target.is_file() and target.read_bytes() == content:
                continue  # the metapackage ships the same scripts
            raise PrefixError(
                f"a package of the lock ships {name}, with other content than this program's own",
                "bring scripts/satenv and the cogvideo-sat-env package to the same version",
            )
        own_files.write(staging, name, content, 0o777 if name == f"bin/{SOURCED}" else 0o666)
    return sorted(files)


def _fill(template: str, name: str, prefix: Path, variables: Mapping[str, str]) -> str:
    setting = []
    for variable, value in sorted(variables.items()):
        old, new = f"_COGVIDEO_SAT_OLD_{variable}", f"_COGVIDEO_SAT_NEW_{variable}"
        setting += [
            f'if [ -n "${{{variable}+x}}" ]; then export {old}="${{{variable}}}"; fi',
            f"export {variable}={shlex.quote(value)} {new}={shlex.quote(value)}",
            f'_COGVIDEO_SAT_NAMES="${{_COGVIDEO_SAT_NAMES}}{variable} "',
        ]
    filled = template.replace("@SET@\n", "".join(f"{line}\n" for line in setting))
    return filled.replace("@PREFIX@", quoted(name, str(prefix)))


def quoted(name: str, text: str) -> str:
    """Return `text` as the file `name` of TEMPLATES has to quote it."""
    return {".csh": _quote_csh, ".fish": _quote_fish}.get(os.path.splitext(name)[1], shlex.quote)(text)


def _quote_csh(text: str) -> str:
    return "'" + text.replace("'", "'\\''").replace("!", "\\!") + "'"


def _quote_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def activation_command(prefix: Path) -> str:
    """Return the lines that tell a user how to activate `prefix`: without conda, and with it."""
    script = prefix / "bin" / SOURCED
    return (
        f". {shlex.quote(str(script))}\n"
        f"  (sh, bash, zsh; csh and fish: source {SOURCED}.csh or .fish beside it; undo with: deactivate)\n"
        f"or, with conda, mamba or micromamba:\n"
        f"conda activate {shlex.quote(str(prefix))}"
    )

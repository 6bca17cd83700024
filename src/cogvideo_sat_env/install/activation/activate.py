"""Print what bin/activate-cogvideo-sat changes as commands of another shell: activate.py csh|fish activate|deactivate.

activate.py modules activate prints it for modulefiles: KIND:NAME=VALUE with spaces between and %XX in values. KIND is
prepend (to a list with colons), set (what was not set), blank (was empty), push (NAME=VALUE=OLD), unset (NAME==OLD).

Run by the environment's own Python; standard library only. There is one activation, for every shell.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

PREFIX = Path(os.path.abspath(__file__)).parents[2]
_SCRIPT = PREFIX / "bin" / "activate-cogvideo-sat"
_PYTHON = PREFIX / "bin" / "python"
_UNDO = 'exec "$_COGVIDEO_SAT_PREFIX/bin/python" -I "$_COGVIDEO_SAT_PREFIX/etc/cogvideo-sat-env/activate.py" $1'
_OF_SH = re.compile(r"_COGVIDEO_SAT_|PS1$")  # by these `deactivate` finds back; a module system has its own way
_SHELLS_OWN = {"_", "SHLVL", "PWD", "OLDPWD", "_COGVIDEO_SAT_HERE"}


def environment(commands: str) -> dict[str, str]:
    """Return the environment after `commands` in sh; what they print goes to standard error. Exits where they fail."""
    told = 'exec "$2" -I -c "import json, os; print(json.dumps(dict(os.environ)))"'
    run = subprocess.run(
        ["sh", "-c", f"exec 3>&1 >&2; {commands}; {told} >&3 3>&-", "sh", str(_SCRIPT), str(_PYTHON)],
        stdout=subprocess.PIPE,
        check=False,
    )
    if run.returncode != 0:
        sys.exit(1)  # it has said why
    return json.loads(run.stdout)


def word(text: str, shell: str) -> str:
    """Return `text` as one word of the shell."""
    if shell == "fish":
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return re.sub(r"([^A-Za-z0-9_./:=@%+,\x80-\U0010ffff-])", r"\\\1", text) or "''"


def change(name: str, old: str | None, new: str | None) -> str:
    """Return one change as modulefiles read it."""
    if new is None:
        return f"unset:{name}=={quote(old or '', safe='/:')}"
    if old and new.endswith(f":{old}"):
        return f"prepend:{name}={quote(new[: -len(old) - 1], safe='/:')}"
    kind = "blank" if old == "" else "push" if old else "prepend" if name.endswith("PATH") else "set"
    before = f"={quote(old or '', safe='/:')}" if kind == "push" else ""
    return f"{kind}:{name}={quote(new, safe='/:')}{before}"


def main() -> None:
    """Print the commands, on one line for csh, whose eval takes no more."""
    shell, step = sys.argv[1:]
    before = dict(os.environ)
    after = environment('. "$1" && deactivate' if step == "deactivate" else '. "$1"')
    lines = []
    names = sorted({*before, *after} - _SHELLS_OWN)
    if shell == "modules":
        changed = [name for name in names if before.get(name) != after.get(name) and not _OF_SH.match(name)]
        print(" ".join(change(name, before.get(name), after.get(name)) for name in changed))
        return
    for name in names:
        value = after.get(name)
        if value == before.get(name) or "\n" in (value or ""):  # csh can't take a line break, fish reads by lines
            continue
        if value is None:
            lines.append(f"set -e {name}" if shell == "fish" else f"unsetenv {name}")
        elif shell == "fish":
            values = value.split(":") if name in ("PATH", "MANPATH", "CDPATH") else [value]
            lines.append(f"set -gx {name} {' '.join(word(part, shell) for part in values)}")
        else:
            lines.append(f"setenv {name} {word(value, shell)}")
    if step == "deactivate":
        lines.append("functions -e deactivate" if shell == "fish" else "unalias deactivate")
    elif shell == "fish":
        lines.append(f"function deactivate; sh -c {word(f'{_UNDO} deactivate', shell)} sh fish | source; end")
    else:
        lines.append("alias deactivate " + word(f"eval `sh -c '{_UNDO} deactivate' sh csh`", shell))
    print("\n".join(lines) if shell == "fish" else "; ".join(lines))


main()

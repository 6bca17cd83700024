"""Print what bin/activate-cogvideo-sat changes as commands of another shell: activate.py csh|fish activate|deactivate.

Run by the environment's own Python; standard library only. There is one activation, for every shell.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PREFIX = Path(os.path.abspath(__file__)).parents[2]
_SCRIPT = PREFIX / "bin" / "activate-cogvideo-sat"
_PYTHON = PREFIX / "bin" / "python"
_UNDO = 'exec "$_COGVIDEO_SAT_PREFIX/bin/python" -I "$_COGVIDEO_SAT_PREFIX/etc/cogvideo-sat-env/activate.py" $1'
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


def main() -> None:
    """Print the commands, on one line for csh, whose eval takes no more."""
    shell, step = sys.argv[1:]
    before = dict(os.environ)
    after = environment('. "$1" && deactivate' if step == "deactivate" else '. "$1"')
    lines = []
    for name in sorted({*before, *after} - _SHELLS_OWN):
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

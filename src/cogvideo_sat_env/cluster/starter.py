"""ROOT/stage: `satenv stage` in one file, for nodes that have a shell and any Python of 3.9 or newer."""

from __future__ import annotations

from pathlib import Path

from cogvideo_sat_env.base.files import write_atomically

_SOURCE = Path(__file__).resolve().parents[1]
_MODULES = (  # each after those that it imports
    "__init__", "base/__init__", "base/printable", "base/errors", "base/machine", "base/stdio", "base/progress",
    "base/run", "cluster/__init__", "cluster/image_facts", "cluster/stage/__init__", "cluster/stage/mounts",
    "cluster/stage/place", "cluster/stage/bring", "cluster/stage/stage", "cluster/stage/all_nodes",
    "cluster/stage/command_line",
)  # fmt: skip
_MARK = "\n#### "
_START = r"""#!/bin/sh
{ # the shell reads up to the closing brace before it does anything: of a file that is cut off it does nothing
# Part of cogvideo-sat-env: has the current release on this node; see:  ROOT/stage --help
# The shell's lines, then Python's. Python reads them all at once, because every node of a job asks the file server for
# this file: a zip archive would be opened anew for each module.
here=$(dirname -- "$0")
for python in "${SATENV_PYTHON:-python3}" python3 /usr/libexec/platform-python "$here/current/bin/python"; do
    if "$python" -IS -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        exec "$python" -I -c '
import sys
with open(sys.argv[1], encoding="utf-8") as stream:
    parts = stream.read().split("\n#### ")
exec(parts[1])
sys.exit("stage: this file is cut off; tell who deployed it")' "$0" "$@"
    fi
done
echo "stage: no Python 3.9 or newer on this node: name one in SATENV_PYTHON" >&2
exit 8
}

#### # Each part below is a module: its path, and its text.
import linecache, os
from pathlib import Path
from types import ModuleType

del sys.argv[0]
file = os.path.abspath(sys.argv[0])
for part in parts[2:]:
    path, text = part.split("\n", 1)
    name = path.replace("/", ".").replace(".__init__", "")
    module = sys.modules[name] = ModuleType(name)
    if path.endswith("__init__"):
        module.__path__ = []
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    where = "%s: %s" % (file, path)
    linecache.cache[where] = len(text), None, text.splitlines(True), where  # for tracebacks
    exec(compile(text, where, "exec", dont_inherit=True), module.__dict__)
root = os.path.dirname(file)
deployed = os.path.isdir(os.path.join(root, "releases"))
command = sys.modules["cogvideo_sat_env.cluster.stage.command_line"]
sys.exit(command.main("stage", ["/bin/sh", file], Path(root) if deployed else None))
"""


def write_starter(root: Path) -> Path:
    """Write ROOT/stage for the releases in `root`, the same bytes each time; return its path. Raises OSError."""
    parts = [f"cogvideo_sat_env/{name}\n{(_SOURCE / f'{name}.py').read_text('utf-8')}" for name in _MODULES]
    path = root / "stage"
    write_atomically(path, _MARK.join([_START, *parts]).encode("utf-8"))
    path.chmod(0o755)
    return path

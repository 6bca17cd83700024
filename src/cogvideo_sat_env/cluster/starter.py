"""ROOT/stage: `satenv stage` in one file, for nodes that have a shell and any Python of 3.9 or newer."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from cogvideo_sat_env.base.files import write_atomically

_SOURCE = Path(__file__).resolve().parents[1]
_MODULES = (
    "__init__.py", "base/__init__.py", "base/errors.py", "base/machine.py", "base/printable.py", "base/progress.py",
    "base/run.py", "base/stdio.py", "cluster/__init__.py", "cluster/image_facts.py", "cluster/stage/__init__.py",
    "cluster/stage/bring.py", "cluster/stage/command_line.py", "cluster/stage/all_nodes.py", "cluster/stage/mounts.py",
    "cluster/stage/place.py", "cluster/stage/stage.py",
)  # fmt: skip
# one open file on the shared file system: the shell's lines, then what Python reads, a zip archive
_SHELL = b"""#!/bin/sh
# Part of cogvideo-sat-env: has the current release on this node; see:  ROOT/stage --help
here=$(dirname -- "$0")
for python in "${SATENV_PYTHON:-python3}" python3 /usr/libexec/platform-python "$here/current/bin/python"; do
    if "$python" -IS -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        exec "$python" -I "$0" "$@"
    fi
done
echo "stage: no Python 3.9 or newer on this node: name one in SATENV_PYTHON" >&2
exit 8
"""
_MAIN = """import os, sys
from cogvideo_sat_env.cluster.stage.command_line import main
me = os.path.abspath(sys.argv[0])
from pathlib import Path
root = Path(os.path.dirname(me))
sys.exit(main("stage", ["/bin/sh", me], root if (root / "releases").is_dir() else None))
"""
_STAMP = (2020, 1, 1, 0, 0, 0)


def write_starter(root: Path) -> Path:
    """Write ROOT/stage for the releases in `root`, the same bytes each time; return its path. Raises OSError."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _MODULES:
            archive.writestr(_info(f"cogvideo_sat_env/{name}"), (_SOURCE / name).read_bytes())
        archive.writestr(_info("__main__.py"), _MAIN)
    path = root / "stage"
    write_atomically(path, _SHELL + content.getvalue())
    path.chmod(0o755)
    return path


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _STAMP)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return info

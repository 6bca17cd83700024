"""Make a private venv out of hash-pinned requirement files, complete or absent.

usage: bootstrap.py VENV REQUIREMENTS...
"""

import os
import sys

if sys.version_info < (3, 10):  # noqa: UP036 - it runs before any version is known
    sys.stderr.write("satenv: %s is Python %s; 3.10 or newer is needed\n" % (sys.executable, sys.version.split()[0]))  # noqa: UP031
    sys.stderr.write("  name another one in SATENV_PYTHON\n")
    sys.exit(8)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))


def main() -> int:
    """Make the venv named first from the requirement files named after it; return the exit code."""
    from pathlib import Path

    from cogvideo_sat_env.base.run import run
    from cogvideo_sat_env.base.tool_venv import make_tool_venv

    venv, *requirements = (Path(name).absolute() for name in sys.argv[1:])
    return run("satenv", lambda: make_tool_venv(venv, requirements))


if __name__ == "__main__":
    sys.exit(main())

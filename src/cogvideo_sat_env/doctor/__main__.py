"""What the metapackage's command `cogvideo-sat-env` runs; without a command, `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cogvideo_sat_env.doctor import argparse_cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `arguments` (default: the process's own); `python -m cogvideo_sat_env.doctor --level quick` is meant too."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in {*argparse_cli.COMMANDS, "-h", "--help", "--version"}:
        given.insert(0, "doctor")
    return argparse_cli.main(given)


if __name__ == "__main__":
    sys.exit(main())
